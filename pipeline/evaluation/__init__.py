"""Measures of rankings, and the uncertainty of their differences."""
