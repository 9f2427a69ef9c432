"""Corpora: what is on the disk, which parts it has, which utterances can be used."""
