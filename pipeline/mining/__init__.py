"""First stages, and the negatives and candidates they give."""
