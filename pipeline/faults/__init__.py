"""Runs broken on purpose, and what is lost by it counted."""
