"""Check composed configs, and turn them into objects and names."""
