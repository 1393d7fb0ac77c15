"""The cross-encoder: its files, its training and its scores."""
