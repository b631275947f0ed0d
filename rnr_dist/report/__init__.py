"""What a person sees: progress, tables, figures, the summary and MLflow."""
