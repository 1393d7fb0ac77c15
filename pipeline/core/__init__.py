"""Foundations of every other package: errors, records, artefacts' names and folders, and provenance."""
