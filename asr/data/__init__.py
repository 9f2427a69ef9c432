"""From an utterance on the disk to a batch."""
