"""Experiments: hyperparameter search, studies, and length calibration."""
