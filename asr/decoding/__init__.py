"""Decoders, which turn log-probabilities into text."""
