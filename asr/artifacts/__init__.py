"""Make the pictures, sounds and tables of a run that people look at."""
