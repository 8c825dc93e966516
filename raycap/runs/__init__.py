"""Runs: JSON records beside an output, and who may write to it."""
