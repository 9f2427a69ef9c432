"""A corpus spoken by eSpeak NG."""
