"""One trial of a study: a training without its test, whose dev scores the pruner sees epoch by epoch."""

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from asr.config.build import build_session
from asr.config.naming import Job
from asr.console import console
from asr.errors import DivergedError
from asr.searching.space import Space, show_setting, train_overrides, trial_settings, with_settings
from asr.tracking.journal import Journal
from asr.tracking.run import Run
from asr.train import open_tracked, restore, train
from asr.training.evaluation import Evaluation
from asr.training.loop import EpochSummary
from asr.training.state import TrainState

METRICS = (  # the numbers of asr.train.epoch_record
    *(f"dev_{name}" for name in Evaluation(0.0, 0, [], 0.0, 0.0).as_metrics()),
    *(f"train_{name}" for name in EpochSummary._fields),
    "train_audio_seconds_per_second",
    "dev_unalignable",
    "dev_wall_seconds",
    "learning_rate",
)
# Attributes of a trial in Optuna's storage.
EPOCHS, SECONDS, REASON, RUN_ID, BASELINE = "epochs", "seconds", "reason", "mlflow_run", "baseline"
LAST_VALUE = "last_value"  # the metric in the last epoch; what Optuna calls a pruned trial's value is that of pruned_by


def train_command(job: Job, settings: Mapping[str, Any]) -> str:
    """What makes the same training by hand, with its test."""
    return shlex.join(["python", "-m", "asr.train", *train_overrides(job.overrides, settings)])


def train_trial(trial: optuna.Trial, number: int, config: DictConfig, job: Job, space: Space, parent: str) -> float:
    """Trains with the trial's values, in the trial's own directory, and goes on there if it was begun before.

    parent:  the MLflow run of the study
    returns: the metric in the epoch that best.pt is of
    raises:  TrialPruned if the pruner ends it or its loss is not finite; InputError for any other mistake
    """
    settings = trial_settings(config, space, {p.key: p.suggest(trial) for p in space.parameters})
    training = with_settings(config, settings)
    directory = Path(config.output_dir) / f"trial-{number:04}"
    training.output_dir = str(directory)
    overrides = train_overrides(job.overrides, settings)
    job = Job(f"{job.name}/{directory.name}", job.choices, overrides, train_command(job, settings))
    told = "  ".join(f"{key}={show_setting(value)}" for key, value in settings.items())
    console.print(f"trial {number}: {told}{' (the baseline)' if BASELINE in trial.user_attrs else ''}", soft_wrap=True)

    session = build_session(training)
    plain: dict[str, Any] = OmegaConf.to_container(training, resolve=True)  # type: ignore[assignment]
    state = TrainState(session.recognizer.model, session.optimizer, session.scheduler)
    reports = Reports(trial, config.study.pruned_by, (config.study.metric, f"dev_{training.monitor}"), training.epochs)
    tags = {"kind": "trial", "trial": number, "mlflow.parentRunId": parent}
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(directory)))
        restore(state, directory, plain, job)
        tracked = stack.enter_context(open_tracked(session, training, job, plain, journal, **tags))
        trial.set_user_attr(RUN_ID, tracked.run_id)
        try:
            reports.catch_up(state.history)
            train(state, session, training, plain, directory, tracked, reports.after_epoch)
            value = objective(state.history, config.study.metric, training.monitor)
            tracked.log_metrics({"objective": value}, state.step)
            return value
        except (optuna.TrialPruned, DivergedError) as stop:
            end_early(trial, state, tracked, stop)
            raise optuna.TrialPruned from stop
        finally:
            trial.set_user_attr(RUN_ID, tracked.run_id)  # again: MLflow may have answered later only
            trial.set_user_attr(EPOCHS, state.epoch)
            trial.set_user_attr(LAST_VALUE, state.history[-1][config.study.metric] if state.history else None)
            trial.set_user_attr(SECONDS, sum(r["train_wall_seconds"] + r["dev_wall_seconds"] for r in state.history))


def end_early(trial: optuna.Trial, state: TrainState, tracked: Run, stop: Exception) -> None:
    """Marks a trial that the pruner ended (MLflow: KILLED) or that diverged (FAILED).

    For Optuna both are pruned: of trials that failed its sampler would learn nothing.
    """
    if isinstance(stop, DivergedError):
        trial.set_user_attr(REASON, f"diverged after epoch {state.epoch}: {stop}")
        tracked.set_tag("diverged", f"after epoch {state.epoch}: {stop}")
        tracked.finish("FAILED")
    else:
        trial.set_user_attr(REASON, f"pruned after epoch {state.epoch}")
        tracked.set_tag("pruned", f"epoch {state.epoch}")
        tracked.finish("KILLED")


def objective(history: Sequence[Mapping[str, Any]], metric: str, monitor: str) -> float:
    """The metric in the first epoch with the lowest monitored dev score, which best.pt is of."""
    return float(min(history, key=lambda record: record[f"dev_{monitor}"])[metric])


class Reports:
    """Tells Optuna of every finished epoch once, and asks it whether to go on.

    key:    the number that the pruner compares
    finite: those that must be finite besides
    """

    def __init__(self, trial: optuna.Trial, key: str, finite: Sequence[str], epochs: int) -> None:
        self.trial, self.key, self.finite, self.epochs = trial, key, finite, epochs

    def catch_up(self, history: Sequence[Mapping[str, Any]]) -> None:
        """The epochs of an earlier start, in order; only of the last is it unknown whether the pruner was asked."""
        for record in history:
            self.trial.report(record[self.key], record["epoch"])
        if history:
            self.judge(history[-1])

    def after_epoch(self, state: TrainState) -> None:
        """For asr.train.train."""
        record = state.history[-1]
        self.trial.report(record[self.key], record["epoch"])
        self.judge(record)

    def judge(self, record: Mapping[str, Any]) -> None:
        """Raises what ends the trial. One that has done all its epochs is never pruned, nor is the baseline."""
        for key in (self.key, *self.finite):
            if not math.isfinite(record[key]):
                raise DivergedError(f"{key} is {record[key]}")
        prunable = record["epoch"] < self.epochs and BASELINE not in self.trial.user_attrs
        if prunable and self.trial.should_prune():
            raise optuna.TrialPruned
