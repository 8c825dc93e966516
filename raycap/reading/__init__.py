"""Reading of outputs from Python: `raycap.read`."""
