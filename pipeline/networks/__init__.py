"""BERT and ModernBERT without padding, forwards and backwards: `block_*` on a CPU, `packed_*` on a GPU."""
