"""Models: from a batch to log-probabilities and CTC's loss."""
