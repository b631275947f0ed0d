"""What a person calls: the command line, checks, comparison and export of results."""
