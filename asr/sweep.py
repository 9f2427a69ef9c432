"""The MLflow parent run of a multirun.

Jobs may be other processes, so an environment variable tells them its id.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from asr.cli import fail_alike
from asr.config.build import build_experiment
from asr.config.naming import identifying_overrides, run_name
from asr.config.rules import TRAIN
from asr.errors import InputError
from asr.settings import check
from asr.tracking.run import Description, Destination, open_run, short_name
from asr.training.distributed import is_main_process, processes

log = logging.getLogger(__name__)
PARENT = "ASR_PARENT_RUN"
SWEEPS = Path("outputs/sweeps")
LOCAL = ("BasicLauncher", "SideBySide")  # launchers whose jobs see the data that this machine sees


@contextmanager
def parent_run(config: DictConfig, jobs: Sequence[DictConfig]) -> Iterator[None]:
    """Open an MLflow run that is the parent of the jobs' runs; it ends FINISHED, FAILED or KILLED with the block.

    The same sweep called again resumes the same run, as its jobs do. A dry run, tracking.uri=null and a command that
    tracks nothing open none. If a job is invalid, the process exits before anything is written.
    """
    launcher = config.hydra.launcher._target_.rpartition(".")[2]
    if processes() > 1 and launcher != "BasicLauncher":
        fail_alike(f"{launcher} under torchrun: each process would launch the runs; leave launcher= or torchrun away")
    if "dry_run" in config:  # only trainings and searches have it
        try:
            validate(jobs, with_data=launcher in LOCAL and not (config.dry_run or "study" in config))
        except InputError as error:
            fail_alike(str(error))
    if config.get("dry_run", True) or not is_main_process() or config.tracking.uri is None:
        yield
        return
    overrides, sweep = list(config.hydra.overrides.task), config.hydra.runtime.choices.get("sweep")
    name = f"{sweep or 'multirun'}+{run_name(overrides)}".removesuffix("+default")
    params = config.hydra.sweeper.params or {}
    description = Description(
        short_name(identifying_overrides(overrides), sweep or "multirun"),
        {"sweep": sweep or ""},
        {"multirun": {"overrides": overrides, **params}},
        tags={"kind": "sweep"},
    )
    os.environ.pop(PARENT, None)
    try:
        with open_run(SWEEPS / name, Destination(config.tracking.uri, config.tracking.experiment), description) as run:
            if run.run_id:
                os.environ[PARENT] = run.run_id
            else:
                log.warning(
                    "MLflow did not answer in time: the runs of %s will not be shown under a parent run there", name
                )
            yield
    finally:
        os.environ.pop(PARENT, None)


def validate(jobs: Sequence[DictConfig], with_data: bool) -> None:
    """Check the settings of every job and, with_data, build a training on each of their data.

    raises: InputError
    """
    built = set()
    for job in jobs:
        HydraConfig.instance().set_config(job)  # output_dir is resolved from it
        check(job, TRAIN)
        data = OmegaConf.to_yaml(job.data, resolve=True)
        if with_data and data not in built:
            built.add(data)
            build_experiment(OmegaConf.merge(job, {"device": "cpu"}))  # type: ignore[arg-type]


def parent_tags() -> dict[str, str]:
    """Return the tag that makes a run a child of its sweep's run in MLflow; empty if there is no sweep."""
    return {"mlflow.parentRunId": os.environ[PARENT]} if PARENT in os.environ else {}
