"""Hyperparameter search on Ray Tune; each trial is an ordinary training run."""
