"""A run's files as facts, and facts as summary, card and comparison."""
