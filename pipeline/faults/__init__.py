"""Runs broken on purpose, to count what is lost."""
