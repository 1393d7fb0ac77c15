"""Read a run's files as facts; render the facts as summary, model card and comparison."""
