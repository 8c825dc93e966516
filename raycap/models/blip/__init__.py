"""BLIP: captioning, compiled and 8-bit variants, training."""
