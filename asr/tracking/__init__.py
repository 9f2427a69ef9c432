"""What a run logs: its journal, and from there to MLflow."""
