"""Iterative Contrastive Unlearning: pure pairing, filter and stopping; Ray Train around them."""
