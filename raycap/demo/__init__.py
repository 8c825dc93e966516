"""The demonstration: every command on rendered scenes, with a small embedded model."""
