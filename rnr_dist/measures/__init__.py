"""Measures of a model: continuations, perplexity, fluency guards, all with intervals."""
