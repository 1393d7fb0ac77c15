"""The cross-encoder: tokens, batches, weights, training, scoring."""
