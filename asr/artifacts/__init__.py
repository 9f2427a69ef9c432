"""Pictures, sounds and tables of a run, for people."""
