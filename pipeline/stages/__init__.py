"""MINE, TRAIN, EVALUATE, CARD, and the plan that names their folders."""
