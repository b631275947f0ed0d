"""Tasks: what to forget and how it is measured. A user adds one in a file of their own."""
