"""The stages MINE, TRAIN, EVALUATE and CARD, and the plan that names their folders."""
