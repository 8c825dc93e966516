"""Training data: the order of images, and their stream to the workers."""
