"""Study: captioners of every kind compared on growing subsets."""
