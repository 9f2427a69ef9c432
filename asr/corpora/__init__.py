"""Get corpora, index them, and load the utterances that can be used."""
