"""What a model is asked, and what becomes of its answer: its type, and the rules for its text."""
