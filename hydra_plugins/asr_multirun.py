"""Hydra's sweeper and launcher for our multiruns: all jobs compose before any starts, and jobs end with their parent.

Hydra finds plugins in this namespace package only.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from asr.config.naming import config_flags
from asr.sweep import parent_run
from asr.tracking.run import short_name
from asr.training.signals import LAUNCHER, StopRequest, deferred, stop_at_once_on_sigterm

# A program that writes its argument before each line of its input
LABEL = """
import sys
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(f"{sys.argv[1]}: ".encode() + line)
    sys.stdout.flush()
"""


class Multirun(BasicSweeper):
    """Extend Hydra's sweeper by an MLflow run that is the parent of the jobs' runs; write no multirun.yaml."""

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        stop_at_once_on_sigterm()
        assert self.hydra_context, "Hydra calls setup first"
        loader, config, launcher = self.hydra_context.config_loader, self.config, self.launcher
        assert config
        assert launcher
        overrides = OverridesParser.create(loader).parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(overrides, self.max_batch_size)
        jobs = [loader.load_sweep_config(config, list(job)) for batch in batches for job in batch]
        results: list[Sequence[JobReturn]] = []
        with parent_run(config, jobs):
            for batch in batches:
                results.append(launcher.launch(batch, initial_job_idx=sum(map(len, results))))
                for job in results[-1]:
                    _ = job.return_value  # raises what the job raised
        return results


class SideBySide(Launcher):
    """Run each job as a command of its own, n_jobs of them at a time; each line that it prints begins with its name.

    Processes started by joblib cannot be stopped gently: when one ends, joblib kills the others. These save first.

    settings: arguments of joblib.Parallel
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings | {"backend": "threading"}  # each thread waits for a process

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra, self.module = config.hydra, task_function.module  # type: ignore[attr-defined]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs to their end; the return value of a job is None, or SystemExit with its exit code.

        raises: Interrupted after Ctrl-C or SIGTERM, once the running jobs have saved and ended
        """
        import joblib

        threads = max(1, joblib.cpu_count() // joblib.effective_n_jobs(self.settings["n_jobs"]))
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
        environment |= {LAUNCHER: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
        with deferred() as stop:
            run = joblib.delayed(self._run)
            jobs = [(list(job), short_name([o for o in job if o not in common])) for job in job_overrides]
            return joblib.Parallel(**self.settings)(run(*job, environment, stop) for job in jobs)

    def _run(self, overrides: list[str], name: str, environment: dict[str, str], stop: StopRequest) -> JobReturn:
        """Run one job unless a stop has been requested; pass a later request on to it as SIGTERM."""
        code = 0
        if not stop.number:
            command = [sys.executable, "-m", self.module, "--config-name", self.hydra.job.config_name]
            command += [*config_flags(self.hydra, main="--config-path"), *self.hydra.overrides.hydra]
            command += ["hydra.mode=RUN", *overrides]
            label = [sys.executable, "-c", LABEL, name]
            # In sessions of their own, so that Ctrl-C in the terminal reaches the job through this process only, and
            # so that what a job prints while it saves is shown even if this process has been killed.
            popen = partial(subprocess.Popen, start_new_session=True)
            with (
                popen(label, stdin=subprocess.PIPE, stdout=1) as out,
                popen(label, stdin=subprocess.PIPE, stdout=2) as err,
                popen(command, env=environment, stdout=out.stdin, stderr=err.stdin) as process,
            ):
                while process.poll() is None and not stop.number:
                    time.sleep(0.2)
                process.terminate()  # has no effect on a process that has ended
                code = process.wait()
        result = JobReturn(overrides=overrides, status=JobStatus.FAILED if code else JobStatus.COMPLETED)
        result.return_value = SystemExit(code if code >= 0 else 128 - code) if code else None
        return result
