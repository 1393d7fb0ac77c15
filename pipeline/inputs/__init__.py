"""From texts to the inputs of a model: tokens, and the batches of pairs composed from them."""
