"""This pipeline and the reference, side by side."""
