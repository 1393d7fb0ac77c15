"""How good rankings are, and how sure the differences."""
