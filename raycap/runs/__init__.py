"""Runs: opening an output as its only writer, and the JSON records beside it."""
