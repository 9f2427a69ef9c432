"""Hyperparameter search: the space, the study in its storage, a trial, and the worker that trains trials."""
