"""Training: Ray Data streams and augments, Ray Train runs the workers."""
