"""Tracking of runs: each logs to a journal in its own directory, which is sent to MLflow from there.

mlflow takes seconds to import, so only asr.tracking.mlflow imports it, and that is imported where it is needed.
"""

import os

for key, value in {  # mlflow reads some of them when it is imported; what the user has set holds
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else each migration is a line on the console
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run reports to its tracking server and to nobody else
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # with mlflow's own 7, of 120 s each, a lost server costs minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}.items():
    os.environ.setdefault(key, value)
