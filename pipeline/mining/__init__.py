"""First-stage retrieval, and the negatives and candidates mined from it."""
