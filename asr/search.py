"""python -m asr.search: search the settings of asr.train in an Optuna study; a trial is a training without a test.

python -m asr.search search=lr experiment=exp3 scale=mini data.root=outputs/corpora/synthetic study.trials=12
python -m asr.search search=lr_range experiment=exp3
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from asr.cli import entry_point
from asr.config.build import build_experiment
from asr.config.naming import Job, current_job
from asr.console import console, print_plan, print_whereabouts
from asr.errors import InputError, mask
from asr.plan import plan_facts, plan_parts
from asr.searching.range_test import run_range_test
from asr.searching.report import is_current, print_best, trial_line, write_report
from asr.searching.space import baseline, read_space, show_setting, space_facts, trial_settings, with_settings
from asr.searching.study import (
    RECORD,
    RUNS,
    SeededByTrial,
    by_place,
    create_or_wait,
    database_file,
    delete_unstarted,
    find_study,
    make_pruner,
    open_storage,
    quiet_optuna,
    storage_errors,
    validate_record,
)
from asr.searching.trial import BASELINE, METRICS, Search, train_command, train_trial
from asr.searching.worker import Worker, count_remaining, count_states
from asr.settings import GROUP, STRING, SWITCH, Rules, check, one_of, whole
from asr.sweep import parent_tags
from asr.tracking.run import Description, Destination, Run, open_run, short_name
from asr.train import GROUPS
from asr.training.experiment import Experiment

RULES: Rules = {
    "search": GROUP,
    "search.kind": one_of("study", "range"),
    "study": GROUP,
    "study.name": STRING.or_null,
    "study.storage": STRING,
    "study.trials": whole(1),
    "study.metric": one_of(*METRICS),
    "study.baseline": SWITCH,
    "study.seed": whole(0),
    "study.random_trials": whole(0),
    "study.pruner": one_of("median", "hyperband", "none"),
    "study.pruned_by": one_of(*METRICS),
    "study.startup_trials": whole(0),
    "study.warmup_epochs": whole(0),
    "study.heartbeat_seconds": whole(1),
    "study.retries": whole(0),
    "output_dir": STRING,
}
# The settings of a study that decide which trials it makes. The others may change on a resume.
DECISIVE = ("metric", "seed", "baseline", "random_trials", "pruner", "pruned_by", "startup_trials", "warmup_epochs")


@entry_point("search")
def main(config: DictConfig) -> None:
    """Run a study or a learning-rate range test."""
    run(config, current_job("asr.search", (*GROUPS, "search")))


def run(config: DictConfig, job: Job) -> None:
    """Validate the config and run what search.kind names: a study or a range test."""
    check(config, RULES)
    if config.fresh:
        raise InputError("fresh=true: a search cannot be started over; start another by study.name")
    space = read_space(config, job.overrides)
    name = config.study.name or Path(config.output_dir).name
    if not re.fullmatch(r"[\w.+-]+", name):
        raise InputError(
            f"study.name={name}: it names a directory too, so it may hold only letters, digits and . _ + -"
        )
    job = job._replace(name=name)
    if config.search.kind == "range":
        run_range_test(config, job, space)
    else:
        with storage_errors(config.study.storage):
            run_study(Search(config, job, space))


def run_study(search: Search) -> None:
    """Start or resume a study, train its trials and print the best; of a study that is complete only print it."""
    config, name = search.config, search.job.name
    quiet_optuna()
    if config.tracking.uri is None:
        raise InputError("tracking.uri=null: a study compares its trials in MLflow; give the address of one")
    settings, directory = config.study, Path(config.output_dir)
    sampler, pruner = SeededByTrial(settings.seed, settings.random_trials), make_pruner(settings, config.epochs)
    left_over, file = sorted(directory.glob("trial-*")), database_file(settings.storage)
    study = None
    if not (config.dry_run and file and not file.exists()):  # a dry run creates no database
        storage = open_storage(settings)
        study = find_study(storage, name, sampler, pruner)
    if study:
        validate_record(study, study_record(config))
    elif left_over:
        raise InputError(
            f"{left_over[0]} belongs to a study {name} that {mask(settings.storage)} does not contain: give its "
            "study.storage, or start another by study.name"
        )
    if not study or unfinished(study, settings.trials):
        print_study_plan(search, study)
        if config.dry_run:
            return
        study = create_or_wait(storage, name, sampler, pruner)
        try:
            parent = open_parent(search, study)
        except BaseException:
            delete_unstarted(storage, study)
            with suppress(OSError):  # it holds files
                directory.rmdir()
            raise
        with parent:
            if running := TrialWorker(search, study, parent).run():
                numbers = ", ".join(map(str, running))
                console.print(f"Other processes are still training trials {numbers}: run the same command for results.")
            report(search, study, parent)
    elif not (config.dry_run or is_current(study, directory)):  # stopped before its report, or trained elsewhere
        with open_parent(search, study) as parent:
            report(search, study, parent)
    show(search, study)


def print_study_plan(search: Search, study: optuna.Study | None) -> None:
    """Print the plan; raise an InputError if a trial of the space is invalid."""
    training, run = probe(search)
    trial = plan_facts(training, run, Path(search.config.output_dir))
    trial["training"] += "; a trial at the upper edge of the space"
    print_plan(f"{search.job.name}: the plan", plan_parts(run.data), study_facts(search, study) | trial)


def unfinished(study: optuna.Study, total: int) -> bool:
    """Return whether trials are left to start or resume, or running: perhaps in a process that has died."""
    trials = by_place(study)
    return count_remaining(trials, total) > 0 or any(trial.state == TrialState.RUNNING for trial in trials.values())


def study_record(config: DictConfig) -> dict[str, Any]:
    """Return what all trials of a study share: the training config, the space, and how they are chosen."""
    training: Any = OmegaConf.to_container(with_settings(config, {}), resolve=True)
    search = OmegaConf.to_container(config.search, resolve=False)
    return {**training, "search": search, "study": {key: config.study[key] for key in DECISIVE}}


def probe(search: Search) -> tuple[DictConfig, Experiment]:
    """Build trainings that contain every edge of the space, so that a mistake is found before the first trial.

    returns: the config of the last one, and the last one
    """
    config, _, space = search
    for values in space.corners():
        settings = trial_settings(config, space, values)
        try:
            training = with_settings(config, settings)
            run = build_experiment(training)
        except InputError as error:
            tried = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise InputError(f"a trial at an edge of the space ({tried}) is invalid: {error}") from error
    return training, run


def study_facts(search: Search, study: optuna.Study | None) -> dict[str, str]:
    """Return the lines of the plan about the study."""
    config, _, space = search
    settings, trials = config.study, by_place(study) if study else {}
    states = ", ".join(f"{count} {state}" for state, count in count_states(trials).items()) or "none started yet"
    median = (
        f"median: ends a trial whose {settings.pruned_by} is worse than the median of complete trials at the same "
        f"epoch; from epoch {max(1, settings.warmup_epochs)} on, once {settings.startup_trials} trials are complete"
    )
    hyperband = (
        f"hyperband: trials with a better {settings.pruned_by} get more epochs, each trial at least "
        f"{max(1, settings.warmup_epochs)}"
    )
    if own := baseline_values(search):
        values = ", ".join(f"{key}={show_setting(value)}" for key, value in own.items())
        compared = f"trial 0 has the config's own values: {values}; it is never pruned"
    else:
        compared = "none: the space does not contain the config's own values" if settings.baseline else "none"
    pruners = {"median": median, "hyperband": hyperband, "none": "none: every trial runs to its end"}
    return {
        "study": f"{mask(settings.storage)}: {settings.trials} trials in all, {states}",
        **space_facts(config, space),
        "baseline": compared,
        "minimised": f"{settings.metric} in the epoch with the lowest dev_{config.monitor}; no test part is scored",
        "sampler": f"TPE, seed {settings.seed}; the first {settings.random_trials} trials are drawn at random",
        "pruner": pruners[settings.pruner],
    }


def open_parent(search: Search, study: optuna.Study) -> Run:
    """Open the MLflow run of the study, which all processes with the same tracking.uri share; start a new study.

    raises: InputError if the study was started with another config, or MLflow cannot be reached
    """
    from asr.tracking.mlflow import require_server  # imports mlflow, which takes seconds

    config, job, _ = search
    tracking, record = config.tracking, study_record(config)
    known = study.user_attrs.get(RUNS, {})
    validate_record(study, record)
    tags = {"kind": "study", "command": job.command, **parent_tags()}
    require_server(tracking.uri)
    run = open_run(
        Path(config.output_dir) / f"tracked-{uuid4().hex[:8]}",  # other processes log to the same run
        Destination(tracking.uri, tracking.experiment),
        Description(short_name([], job.name), job.choices, record, job.overrides, tags),
        run_id=known.get(tracking.uri),
    )
    if tracking.uri not in known:
        study.set_user_attr(RUNS, known | {tracking.uri: run.run_id})
    if RECORD not in study.user_attrs:
        if own := baseline_values(search):
            study.enqueue_trial(own, user_attrs={BASELINE: True}, skip_if_exists=True)
        study.set_user_attr(RECORD, record)
    return run


def baseline_values(search: Search) -> dict[str, Any] | None:
    """Return the values of the baseline trial; None without study.baseline or if they are outside the space."""
    return baseline(search.config, search.space) if search.config.study.baseline else None


class TrialWorker(Worker):
    """Train the trials of a search, and print and log the result of each."""

    def __init__(self, search: Search, study: optuna.Study, parent: Run) -> None:
        super().__init__(study, search.config.study)
        self.search, self.parent = search, parent

    def train(self, trial: optuna.Trial, number: int) -> float:
        assert self.parent.run_id, "MLflow has answered at the start"
        return train_trial(trial, number, self.search, self.parent.run_id)

    def ended(self, trial: FrozenTrial, number: int) -> None:
        metric = self.search.config.study.metric
        console.print(trial_line(number, trial, metric), soft_wrap=True)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            self.parent.log_metrics({f"trials/{metric}": trial.value}, number)


def report(search: Search, study: optuna.Study, parent: Run) -> None:
    """Write the table, the plots and the page into the directory of the study, and log them to MLflow."""
    for path in write_report(study, Path(search.config.output_dir), search.config.study.metric):
        parent.log_file(path)


def show(search: Search, study: optuna.Study) -> None:
    """Print the best trials, and the command that trains the best one with its test."""
    config, job, space = search
    best = print_best(study, config.study.metric)
    if best:
        settings = trial_settings(config, space, best.params)
        console.print(f"Train the best, with its test:\n{train_command(job, settings)}", soft_wrap=True)
    print_whereabouts(Path(config.output_dir), config.tracking.uri)


if __name__ == "__main__":
    main()
