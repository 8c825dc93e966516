"""Evaluation: several systems of captions against one set of references."""
