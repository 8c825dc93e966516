"""The whole comparison: captioners of every kind, on growing subsets, as one command."""
