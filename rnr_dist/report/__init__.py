"""What a person reads of a run or a study: tables, figures, summary, sheets to grade."""
