"""Question/answer pairs, collections and mined sets: read, split, cleaned, kept."""
