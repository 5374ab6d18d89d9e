"""Small modules that everything may import, each named by what it is about."""
