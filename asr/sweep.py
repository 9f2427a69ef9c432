"""The MLflow run over the runs of a multirun: opened before the first job, found by each of them, ended after the last.

Jobs may be other processes (joblib's or Slurm's), so they learn of it by an environment variable.
"""

import atexit
import logging
import os
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from asr.cli import fail_alike, run_name
from asr.distributed import is_main_process, processes
from asr.tracking import open_run

log = logging.getLogger(__name__)
PARENT = "ASR_PARENT_RUN"
SWEEPS = Path("outputs/sweeps")


class ParentRun(Callback):
    """A Hydra callback; the same sweep called again goes on in the same run, as its jobs do."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        launcher = config.hydra.launcher._target_
        if processes() > 1 and not launcher.endswith(".BasicLauncher"):
            # Hydra makes a warning of every other exception here.
            fail_alike(
                f"{launcher} under torchrun: each process would launch the runs; leave launcher= or torchrun away"
            )
        if config.dry_run or not is_main_process():
            return
        overrides, sweep = list(config.hydra.overrides.task), config.hydra.runtime.choices.get("sweep")
        name = f"{sweep or 'multirun'}+{run_name(overrides)}".removesuffix("+default")
        plain: Any = OmegaConf.to_container(config, resolve=False)
        plain = {"multirun": {"overrides": overrides, **(plain["hydra"]["sweeper"]["params"] or {})}}
        settings = config.tracking
        self.run = open_run(
            SWEEPS / name,
            settings.uri,
            settings.experiment,
            name,
            {"sweep": sweep or ""},
            plain,
            tags={"kind": "sweep"},
            system_metrics_seconds=None,
        )
        os.environ.pop(PARENT, None)
        if self.run.run_id:
            os.environ[PARENT] = self.run.run_id
        else:
            log.warning("MLflow did not answer in time: the runs of %s stand beside it there, not under it", name)
        atexit.register(self.run.finish, "FAILED")  # unless on_multirun_end, which Hydra calls after success only

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: launchers pickle it for the jobs' processes, to which the run does not belong."""
        return {}

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not config.dry_run and is_main_process():
            self.run.finish()


def parent_tags() -> dict[str, str]:
    """What puts a run under that of its sweep in MLflow; nothing where there is none."""
    return {"mlflow.parentRunId": os.environ[PARENT]} if PARENT in os.environ else {}
