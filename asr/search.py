"""python -m asr.search: try settings of asr.train in an Optuna study, each trial a training without its test.

python -m asr.search search=lr experiment=exp3 scale=mini data.root=outputs/corpora/synthetic study.trials=12
python -m asr.search search=lr_range experiment=exp3
"""

import re
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from asr.cli import entry_point
from asr.config.build import Session, build_session
from asr.config.naming import Job, current_job
from asr.console import console, print_plan, print_whereabouts
from asr.errors import InputError, mask
from asr.plan import plan_facts, plan_parts
from asr.searching.range_test import run_range_test
from asr.searching.report import is_current, print_best, trial_line, write_report
from asr.searching.space import Space, baseline, read_space, show_setting, space_facts, trial_settings, with_settings
from asr.searching.study import (
    RECORD,
    RULES,
    RUNS,
    SeededByTrial,
    abandon,
    by_place,
    create_or_wait,
    database_file,
    find_study,
    make_pruner,
    open_storage,
    quiet_optuna,
    refuse_another,
    storage_errors,
)
from asr.searching.trial import BASELINE, METRICS, train_command, train_trial
from asr.searching.worker import Worker, count_states, to_do
from asr.settings import GROUP, TEXT, check, one_of
from asr.sweep import parent_tags
from asr.tracking.run import Description, Destination, Run, open_run, short_name
from asr.train import GROUPS

# Of the study's own settings: those that decide which trials it makes. The others may change while it runs.
DECISIVE = ("metric", "seed", "baseline", "random_trials", "pruner", "pruned_by", "startup_trials", "warmup_epochs")


@entry_point("search")
def main(config: DictConfig) -> None:
    """The command: a study, or a test of the learning rate's range."""
    run(config, current_job("asr.search", (*GROUPS, "search")))


def run(config: DictConfig, job: Job) -> None:
    """What the file in conf/search asks for: kind: study or kind: range."""
    check(config, {GROUP: "search study", one_of("study", "range"): "search.kind", TEXT: "output_dir study.storage"})
    if config.fresh:
        raise InputError("fresh=true: a search is not started over; another study.name starts another")
    space = read_space(config, job.overrides)
    name = config.study.name or Path(config.output_dir).name
    if not re.fullmatch(r"[\w.+-]+", name):
        raise InputError(f"study.name={name}: it names a directory too: letters, digits and any of . _ + - only")
    job = job._replace(name=name)
    if config.search.kind == "range":
        run_range_test(config, job, space)
    else:
        with storage_errors(config.study.storage):
            run_study(config, job, space)


def run_study(config: DictConfig, job: Job, space: Space) -> None:
    """From plan to the best trial. The same command goes on with its study; one that has all trials it shows."""
    check(config, {**RULES, one_of(*METRICS): "study.metric study.pruned_by", one_of(True, False): "study.baseline"})
    quiet_optuna()
    if config.tracking.uri is None:
        raise InputError("tracking.uri=null: a study compares its trials in MLflow; give the address of one")
    settings, directory = config.study, Path(config.output_dir)
    retry = RetryHeartbeatStaleTrialCallback(max_retry=settings.retries)
    chosen_by = SeededByTrial(settings.seed, settings.random_trials), make_pruner(settings, config.epochs)
    left_over, file = sorted(directory.glob("trial-*")), database_file(settings.storage)
    study = None
    if not (config.dry_run and file and not file.exists()):  # a dry run makes no database
        storage = open_storage(settings.storage, settings.heartbeat_seconds, retry)
        study = find_study(storage, job.name, *chosen_by)
    if study:
        refuse_another(study, study_record(config))
    elif left_over:
        raise InputError(
            f"{left_over[0]} is of a study {job.name} that {mask(settings.storage)} does not know: give its "
            "study.storage, or start another by study.name"
        )
    if not study or unfinished(study, settings.trials):
        print_study_plan(config, job, space, study)
        if config.dry_run:
            return
        study = create_or_wait(storage, job.name, *chosen_by)
        try:
            parent = open_parent(study, config, job, space)
        except BaseException:
            abandon(storage, study)
            raise
        with parent:
            work(study, config, job, space, retry, parent)
            report(study, config, parent)
    elif not (config.dry_run or is_current(study, directory)):  # stopped before its report, or elsewhere
        with open_parent(study, config, job, space) as parent:
            report(study, config, parent)
    show(study, config, job, space)


def print_study_plan(config: DictConfig, job: Job, space: Space, study: optuna.Study | None) -> None:
    """What is about to happen; InputError if a trial of the space cannot be."""
    training, session = probe(config, space)
    a_trial = plan_facts(training, session, Path(config.output_dir))
    a_trial["training"] += "; a trial at the upper edge of the space"
    facts = study_facts(config, space, study) | a_trial
    print_plan(f"{job.name}: the plan", plan_parts(session.data), facts)


def unfinished(study: optuna.Study, total: int) -> bool:
    """Whether trials are to be begun or taken up, or are running somewhere: perhaps in a process that has died."""
    trials = by_place(study)
    return to_do(trials, total) > 0 or any(trial.state == TrialState.RUNNING for trial in trials.values())


def study_record(config: DictConfig) -> dict[str, Any]:
    """What the trials of a study have in common: the training config, the space, and how they are chosen."""
    training: Any = OmegaConf.to_container(with_settings(config, {}), resolve=True)
    search = OmegaConf.to_container(config.search, resolve=False)
    return {**training, "search": search, "study": {key: config.study[key] for key in DECISIVE}}


def probe(config: DictConfig, space: Space) -> tuple[DictConfig, Session]:
    """Builds trainings that hold every edge of the space, so that a mistake is found before the first trial.

    returns: the last of them, and its config
    """
    for values in space.corners():
        settings = trial_settings(config, space, values)
        try:
            training = with_settings(config, settings)
            session = build_session(training)
        except InputError as error:
            tried = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise InputError(f"a trial at an edge of the space ({tried}) cannot be: {error}") from error
    return training, session


def study_facts(config: DictConfig, space: Space, study: optuna.Study | None) -> dict[str, str]:
    """What the study is about to do, by name."""
    settings, trials = config.study, by_place(study) if study else {}
    states = ", ".join(f"{count} {state}" for state, count in count_states(trials).items()) or "none begun yet"
    median = (
        f"median: ends a trial whose {settings.pruned_by} is worse than the median of the complete ones at the same "
        f"epoch; from epoch {max(1, settings.warmup_epochs)} on, once {settings.startup_trials} trials are complete"
    )
    hyperband = (
        f"hyperband: trials with a better {settings.pruned_by} get more epochs, all of them "
        f"{max(1, settings.warmup_epochs)} at least"
    )
    if own := own_values(config, space):
        told = ", ".join(f"{key}={show_setting(value)}" for key, value in own.items())
        compared = f"trial 0 has the config's own values: {told}; it is never pruned"
    else:
        compared = "none: the space does not hold the config's own values" if settings.baseline else "none"
    pruners = {"median": median, "hyperband": hyperband, "none": "none: every trial runs to its end"}
    return {
        "study": f"{mask(settings.storage)}: {settings.trials} trials in all, {states}",
        **space_facts(config, space),
        "baseline": compared,
        "minimised": f"{settings.metric} in the epoch with the lowest dev_{config.monitor}; no test part is scored",
        "sampler": f"TPE, seed {settings.seed}; the first {settings.random_trials} trials are drawn at random",
        "pruner": pruners[settings.pruner],
    }


def open_parent(study: optuna.Study, config: DictConfig, job: Job, space: Space) -> Run:
    """The study's MLflow run: one for all processes that track to the same uri. It begins a study that is new.

    raises: InputError if the study was begun with another config, or MLflow cannot be reached
    """
    tracking, record = config.tracking, study_record(config)
    known = study.user_attrs.get(RUNS, {})
    refuse_another(study, record)
    tags = {"kind": "study", "command": job.command, **parent_tags()}
    run = open_run(
        None,
        Destination(tracking.uri, tracking.experiment),
        Description(short_name([], job.name), job.choices, record, job.overrides, tags),
        run_id=known.get(tracking.uri),
    )
    if tracking.uri not in known:
        study.set_user_attr(RUNS, known | {tracking.uri: run.run_id})
    if RECORD not in study.user_attrs:
        if own := own_values(config, space):
            study.enqueue_trial(own, user_attrs={BASELINE: True}, skip_if_exists=True)
        study.set_user_attr(RECORD, record)
    return run


def own_values(config: DictConfig, space: Space) -> dict[str, Any] | None:
    """What the baseline trial has, if there is to be one and the space holds it."""
    return baseline(config, space) if config.study.baseline else None


def work(
    study: optuna.Study,
    config: DictConfig,
    job: Job,
    space: Space,
    retry: RetryHeartbeatStaleTrialCallback,
    parent: Run,
) -> None:
    """Trains trials until the study has all of them."""
    metric, parent_id = config.study.metric, parent.run_id
    assert parent_id, "a run without a directory has one from its start"

    def train_one(trial: optuna.Trial, number: int) -> float:
        return train_trial(trial, number, config, job, space, parent_id)

    def ended(number: int, trial: FrozenTrial) -> None:
        console.print(trial_line(number, trial, metric), soft_wrap=True)
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            parent.log_metrics({f"trials/{metric}": trial.value}, number)

    worker = Worker(study, config.study.trials, config.study.heartbeat_seconds, retry, train_one, ended)
    if running := worker.run():
        names = ", ".join(map(str, running))
        console.print(f"Other processes still train trials {names}: the same command shows how they ended.")


def report(study: optuna.Study, config: DictConfig, parent: Run) -> None:
    """Tables, pictures and a page, in the study's directory and in MLflow."""
    for path in write_report(study, Path(config.output_dir), config.study.metric):
        parent.log_file(path)


def show(study: optuna.Study, config: DictConfig, job: Job, space: Space) -> None:
    """The best trials, and the command that trains the best with its test."""
    best = print_best(study, config.study.metric)
    if best:
        settings = trial_settings(config, space, best.params)
        console.print(f"Train the best, with its test:\n{train_command(job, settings)}", soft_wrap=True)
    print_whereabouts(Path(config.output_dir), config.tracking.uri)


if __name__ == "__main__":
    main()
