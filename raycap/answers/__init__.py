"""What a model is asked, and what becomes of its answer: its faults, type, and text rules."""
