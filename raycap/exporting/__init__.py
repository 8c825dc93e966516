"""Export of captions to formats of other tools."""
