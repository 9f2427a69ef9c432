"""Make a corpus that eSpeak NG speaks."""
