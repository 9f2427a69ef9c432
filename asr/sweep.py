"""The MLflow parent run of a multirun.

Jobs may be other processes, so an environment variable tells them its id.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from asr.cli import fail_alike
from asr.config.naming import identifying_overrides, run_name
from asr.config.rules import TRAIN
from asr.errors import InputError
from asr.settings import check
from asr.tracking.journal import JOURNAL
from asr.tracking.run import Description, Destination, open_run, short_name
from asr.training.distributed import is_main_process, processes

log = logging.getLogger(__name__)
PARENT = "ASR_PARENT_RUN"
SWEEPS = Path("outputs/sweeps")


@contextmanager
def parent_run(config: DictConfig, jobs: Sequence[DictConfig]) -> Iterator[None]:
    """Open an MLflow run that is the parent of the jobs' runs; it ends FINISHED, FAILED or KILLED with the block.

    The same sweep called again resumes the same run, as its jobs do. A new run is deleted if all jobs were refused
    before they opened runs of their own. A dry run, tracking.uri=null and a command that tracks nothing open none. If a
    setting of any job is invalid, the process exits before anything is written.
    """
    launcher = config.hydra.launcher._target_
    if processes() > 1 and not launcher.endswith(".BasicLauncher"):
        fail_alike(f"{launcher} under torchrun: each process would launch the runs; leave launcher= or torchrun away")
    for job in jobs if "dry_run" in config else []:  # only trainings and searches have it
        HydraConfig.instance().set_config(job)  # output_dir is resolved from it
        try:
            check(job, TRAIN)
        except InputError as error:
            fail_alike(str(error))
    if config.get("dry_run", True) or not is_main_process() or config.tracking.uri is None:
        yield
        return
    overrides, sweep = list(config.hydra.overrides.task), config.hydra.runtime.choices.get("sweep")
    name = f"{sweep or 'multirun'}+{run_name(overrides)}".removesuffix("+default")
    plain: Any = OmegaConf.to_container(config, resolve=False)
    plain = {"multirun": {"overrides": overrides, **(plain["hydra"]["sweeper"]["params"] or {})}}
    settings, directory = config.tracking, SWEEPS / name
    before, is_new = _journaled(jobs), not directory.exists()
    os.environ.pop(PARENT, None)
    try:
        description = Description(
            short_name(identifying_overrides(overrides), sweep or "multirun"),
            {"sweep": sweep or ""},
            plain,
            tags={"kind": "sweep"},
        )
        with open_run(directory, Destination(settings.uri, settings.experiment), description) as run:
            if run.run_id:
                os.environ[PARENT] = run.run_id
            else:
                log.warning(
                    "MLflow did not answer in time: the runs of %s will not be shown under a parent run there", name
                )
            yield
    finally:
        parent = os.environ.pop(PARENT, None)
        if is_new and _journaled(jobs) == before:
            with suppress(Exception):  # if the server is gone, it keeps the run as FAILED
                if parent:
                    from asr.tracking.mlflow import find_experiment

                    find_experiment(settings.uri, settings.experiment)[0].delete_run(parent)
                shutil.rmtree(directory)


def _journaled(jobs: Sequence[DictConfig]) -> list[int]:
    """Return the size of the journals of each job's run and trials in bytes, which changes when a run is opened."""
    sizes = []
    for job in jobs:
        HydraConfig.instance().set_config(job)  # output_dir is resolved from it
        sizes.append(sum(path.stat().st_size for path in Path(job.output_dir).rglob(JOURNAL)))
    return sizes


def parent_tags() -> dict[str, str]:
    """Return the tag that makes a run a child of its sweep's run in MLflow; empty if there is no sweep."""
    return {"mlflow.parentRunId": os.environ[PARENT]} if PARENT in os.environ else {}
