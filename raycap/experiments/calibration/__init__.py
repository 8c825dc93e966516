"""Length calibration: decoding settings that close the length gap, without training."""
