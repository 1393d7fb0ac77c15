"""The commands besides the stages."""
