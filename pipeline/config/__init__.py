"""From a command line to a typed, checked configuration."""
