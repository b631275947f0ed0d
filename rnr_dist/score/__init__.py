"""Scoring actors beside the generators: oracles and the embedder."""
