"""The MLflow run over the runs of a multirun.

Jobs may be other processes, so they learn of it by an environment variable.
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
from asr.config.build import RULES
from asr.config.naming import identity, run_name
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
    """Inside, the runs of the jobs stand under one MLflow run, which ends FINISHED, FAILED or KILLED with the block.

    The same sweep called again goes on in the same run, as its jobs do. A new one whose jobs were all refused before
    they opened a run of their own leaves nothing. A dry run, commands that track nothing and a null uri have none.
    A setting of any job that breaks its rule ends the process before anything is made.
    """
    launcher = config.hydra.launcher._target_
    if processes() > 1 and not launcher.endswith(".BasicLauncher"):
        fail_alike(f"{launcher} under torchrun: each process would launch the runs; leave launcher= or torchrun away")
    for job in jobs if "dry_run" in config else []:  # of a training or a search
        HydraConfig.instance().set_config(job)  # output_dir is made from what it holds
        try:
            check(job, RULES)
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
            short_name(identity(overrides), sweep or "multirun"),
            {"sweep": sweep or ""},
            plain,
            tags={"kind": "sweep"},
        )
        with open_run(directory, Destination(settings.uri, settings.experiment), description) as run:
            if run.run_id:
                os.environ[PARENT] = run.run_id
            else:
                log.warning("MLflow did not answer in time: the runs of %s stand beside it there, not under it", name)
            yield
    finally:
        parent = os.environ.pop(PARENT, None)
        if is_new and _journaled(jobs) == before:
            with suppress(Exception):  # a server that has gone meanwhile keeps the run, as FAILED
                if parent:
                    from asr.tracking.mlflow import find_experiment

                    find_experiment(settings.uri, settings.experiment)[0].delete_run(parent)
                shutil.rmtree(directory)


def _journaled(jobs: Sequence[DictConfig]) -> list[int]:
    """The bytes in the journals of the jobs' runs, or of their trials: they change when a run is opened."""
    sizes = []
    for job in jobs:
        HydraConfig.instance().set_config(job)  # output_dir is made from what it holds
        sizes.append(sum(path.stat().st_size for path in Path(job.output_dir).rglob(JOURNAL)))
    return sizes


def parent_tags() -> dict[str, str]:
    """What puts a run under that of its sweep in MLflow; nothing where there is none."""
    return {"mlflow.parentRunId": os.environ[PARENT]} if PARENT in os.environ else {}
