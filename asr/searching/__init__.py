"""What `python -m asr.search` is made of: the space, the study in its storage, a trial, the loop that shares them."""
