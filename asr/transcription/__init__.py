"""Recordings to text: transcription of files and arrays."""
