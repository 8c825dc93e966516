"""Captioning models: a registry of kinds, loading, decoding, training. No Ray, no storage."""
