"""Captioning models: architecture, loading and decoding. Knows no Ray and no storage."""
