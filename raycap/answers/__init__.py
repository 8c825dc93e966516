"""What becomes of a model's answer: its type, and the rules for its text."""
