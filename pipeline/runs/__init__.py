"""A run: what it is, its files, its rows."""
