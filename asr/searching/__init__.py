"""Hyperparameter search: the space, the study in its storage, its trials, its report, and the range test."""
