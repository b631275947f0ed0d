"""Recipes: named lists of stages, and the pipeline that runs them."""
