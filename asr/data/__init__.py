"""From an utterance on the disk to a batch, and which utterances a run is made of."""
