"""A run: its directory, its progress on the terminal, its records in MLflow, its costs."""
