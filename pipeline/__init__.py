"""Mine, train, evaluate and document cross-encoder rerankers."""
