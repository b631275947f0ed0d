"""Checkpoints, adapters and their composition: the one room where weights are read or written."""
