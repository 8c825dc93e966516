"""Tell the whole story on rendered scenes with an embedded model."""
