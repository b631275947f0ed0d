"""Unlearning by epochs, ICU above all: levels, who leaves, when to end; Ray Train around them."""
