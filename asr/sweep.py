"""The MLflow run over the runs of a multirun: opened before the first job, found by each of them, ended after the last.

Jobs may be other processes (joblib's or Slurm's), so they learn of it by an environment variable.
"""

import atexit
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from asr.artifacts import write_json
from asr.cli import run_name
from asr.tracking import Run, open_run

PARENT = "ASR_PARENT_RUN"
SWEEPS = Path("outputs/sweeps")


class ParentRun(Callback):
    """A Hydra callback; the same sweep called again goes on in the same run, as its jobs do."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.dry_run:
            return
        overrides, sweep = list(config.hydra.overrides.task), config.hydra.runtime.choices.get("sweep")
        name = f"{sweep or 'multirun'}+{run_name(overrides)}".removesuffix("+default")
        plain: Any = OmegaConf.to_container(config, resolve=False)
        plain = {"multirun": {"overrides": overrides, **(plain["hydra"]["sweeper"]["params"] or {})}}
        settings = config.tracking
        self.run = reopen_run(
            SWEEPS / name / "mlflow.json",
            settings.uri,
            settings.experiment,
            name,
            {"sweep": sweep or ""},
            plain,
            tags={"kind": "sweep"},
            system_metrics_seconds=None,
        )
        os.environ[PARENT] = self.run.run_id
        atexit.register(self.run.finish, "FAILED")  # unless on_multirun_end, which Hydra calls after success only

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not config.dry_run:
            self.run.finish()


def parent_tags() -> dict[str, str]:
    """What puts a run under that of its sweep in MLflow; nothing where there is none."""
    return {"mlflow.parentRunId": os.environ[PARENT]} if PARENT in os.environ else {}


def reopen_run(memory: Path, uri: str, experiment: str, name: str, choices: Mapping[str, object],
               config: Mapping[str, Any], **settings: Any) -> Run:  # fmt: skip
    """`open_run` that continues the run which the file `memory` names, if it is of this uri, and keeps it there."""
    known = json.loads(memory.read_text()) if memory.exists() else {}
    run_id = known.get("run_id") if known.get("uri") == uri else None
    run = open_run(uri, experiment, name, choices, config, run_id=run_id, **settings)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_json({"uri": uri, "run_id": run.run_id}, memory)
    return run
