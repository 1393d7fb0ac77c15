"""Read, split, clean and store question/answer pairs, collections and mined sets."""
