"""What `python -m asr.report` is made of: runs are read back, compared, judged, and written as blocks of a page."""
