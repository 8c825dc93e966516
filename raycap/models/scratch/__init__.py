"""Captioners trained from scratch: CNN-LSTM, Transformer, and the hybrid."""
