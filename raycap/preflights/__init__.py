"""Preflight: caption a sample of the images and forecast the run."""
