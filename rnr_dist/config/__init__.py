"""The schema of a config, a section a module, and the reading of files."""
