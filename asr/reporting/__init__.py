"""Read runs back from MLflow, compare and judge them, and write the report."""
