"""python -m asr.search: search the settings of asr.train in an Optuna study; a trial is a training without a test.

python -m asr.search search=lr experiment=exp3 scale=mini data.root=outputs/corpora/synthetic study.trials=12
python -m asr.search search=lr_range experiment=exp3
python -m asr.search search=decode checkpoint=outputs/runs/quickstart/best.pt data=synthetic decode.lm=lm.arpa
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from asr import tune
from asr.cli import entry_point
from asr.config.build import build_experiment
from asr.config.naming import Job, current_job
from asr.config.rules import SEARCH
from asr.console import console, print_plan, print_whereabouts
from asr.errors import InputError, mask
from asr.plan import plan_facts, plan_parts
from asr.searching.range_test import run_range_test
from asr.searching.report import is_current, print_best, write_report
from asr.searching.space import read_space, show_setting, training_config, trial_config, trial_settings
from asr.searching.study import (
    RECORD,
    RUNS,
    count_states,
    create_or_wait,
    database_file,
    find_study,
    make_pruner,
    open_storage,
    quiet_optuna,
    storage_errors,
    validate_record,
)
from asr.searching.trial import Search, Worker
from asr.settings import check
from asr.sweep import parent_tags
from asr.tracking.run import Description, Destination, Run, open_run, own_directory, short_name
from asr.train import GROUPS

# The settings of a study that decide which trials it makes. The others may change on a resume.
DECISIVE = ("metric", "seed", "baseline", "random_trials", "pruner", "pruned_by", "startup_trials", "warmup_epochs")


@entry_point("search")
def main(config: DictConfig) -> None:
    """Run a study or a learning-rate range test."""
    run(config, current_job("asr.search", (*GROUPS, "search")))


def run(config: DictConfig, job: Job) -> None:
    """Validate the config and run what search.kind names: a study or a range test."""
    check(config, SEARCH)
    if config.fresh:
        raise InputError("fresh=true: a search cannot be started over; start another by study.name")
    job = job._replace(name=config.study.name or Path(config.output_dir).name)
    search = Search(config, job, read_space(config, job.overrides))
    if config.search.kind == "range":
        run_range_test(search)
    else:
        with storage_errors(config.study.storage):
            run_study(search)


def run_study(search: Search) -> None:
    """Start or resume a study, train its trials and print the best.

    Of a study that has ended only the best is printed, unless it was stopped before its report.
    """
    config, name = search.config, search.job.name
    quiet_optuna()
    if config.tracking.uri is None:
        raise InputError("tracking.uri=null: a study compares its trials in MLflow; give the address of one")
    settings, directory = config.study, Path(config.output_dir)
    pruner, file, record = make_pruner(settings, config.epochs), database_file(settings.storage), study_record(config)
    study = None
    if not (config.dry_run and file and not file.exists()):  # a dry run creates no database
        storage = open_storage(settings)
        study = find_study(storage, name, pruner)
    if study:
        validate_record(study, record)
    elif left_over := sorted(directory.glob("trial-*")):
        raise InputError(
            f"{left_over[0]} belongs to a study {name} that {mask(settings.storage)} does not contain: give its "
            "study.storage, or start another by study.name"
        )
    states = count_states(study)
    ended = states.total() >= settings.trials and not states["running"] + states["waiting"]
    if not ended:
        print_study_plan(search, study)
        if config.dry_run:
            return
    if not (study and ended and (config.dry_run or is_current(study, directory))):
        study = create_or_wait(storage, name, pruner)
        try:
            parent = open_parent(search, study, record)
        except BaseException:
            if RECORD not in study.user_attrs:  # other processes would wait for it
                optuna.delete_study(study_name=name, storage=storage)
            with suppress(OSError):  # it holds files
                directory.rmdir()
            raise
        with parent:
            if running := Worker(study, search, parent).run():
                numbers = ", ".join(map(str, running))
                console.print(f"Other processes are still training trials {numbers}: run the same command for results.")
            for path in write_report(study, directory, settings.metric):
                parent.log_file(path)
    if best := print_best(study, settings.metric):
        command = search.training_job(trial_config(config, search.space, best.params)).command
        console.print(f"Train the best, with its test:\n{command}", soft_wrap=True)
    print_whereabouts(directory, config.tracking.uri)


def study_record(config: DictConfig) -> dict[str, Any]:
    """Return what all trials of a study share: the training config, the space, and how they are chosen."""
    training: Any = OmegaConf.to_container(training_config(config), resolve=True)
    search = OmegaConf.to_container(config.search, resolve=False)
    return {**training, "search": search, "study": {key: config.study[key] for key in DECISIVE}}


def print_study_plan(search: Search, study: optuna.Study | None) -> None:
    """Print the plan; build a training for every edge of the space, and raise an InputError if one is invalid."""
    config, job, space = search
    for values in space.corners():
        training = trial_config(config, space, values)
        try:
            run = build_experiment(training)
        except InputError as error:
            build_experiment(training_config(config))  # raises what is wrong wherever a trial is in the space
            tried = ", ".join(f"{key}={show_setting(value)}" for key, value in trial_settings(training, space).items())
            raise InputError(f"a trial at an edge of the space ({tried}) is invalid: {error}") from error
    trial = plan_facts(training, run, Path(config.output_dir))
    trial["training"] += "; a trial at the upper edge of the space"
    print_plan(f"{job.name}: the plan", plan_parts(run.data), study_facts(search, study) | trial)


def study_facts(search: Search, study: optuna.Study | None) -> dict[str, str]:
    """Return the lines of the plan about the study."""
    settings = search.config.study
    states = ", ".join(f"{count} {state}" for state, count in count_states(study).items()) or "none started yet"
    baseline = "none: the space does not contain the config's own values" if settings.baseline else "none"
    if own := search.baseline():
        values = ", ".join(f"{key}={show_setting(value)}" for key, value in own.items())
        baseline = f"trial 0 has the config's own values: {values}; it is never pruned"
    pruner = f"{settings.pruner}, by {settings.pruned_by}, not before epoch {max(1, settings.warmup_epochs)}"
    if settings.pruner == "median":
        pruner += f", once {settings.startup_trials} trials are complete"
    return {
        "study": f"{mask(settings.storage)}: {settings.trials} trials in all, {states}",
        **search.space.facts(),
        "baseline": baseline,
        "minimised": f"{settings.metric} in the epoch with the lowest dev_{search.config.monitor}; no test is scored",
        "sampler": f"TPE, seed {settings.seed}; the first {settings.random_trials} trials are drawn at random",
        "pruner": "none: every trial runs to its end" if settings.pruner == "none" else pruner,
    }


def open_parent(search: Search, study: optuna.Study, record: dict[str, Any]) -> Run:
    """Open the MLflow run of the study, which all processes with the same tracking.uri share; start a new study.

    raises: InputError if the study was started with another config, or MLflow cannot be reached
    """
    from asr.tracking.mlflow import require_server  # imports mlflow, which takes seconds

    job, tracking = search.job, search.config.tracking
    known = study.user_attrs.get(RUNS, {})
    validate_record(study, record)
    tags = {"kind": "study", "command": job.command, **parent_tags()}
    require_server(tracking.uri)
    run = open_run(
        own_directory(search.config.output_dir),  # other processes log to the same run
        Destination(tracking.uri, tracking.experiment),
        Description(short_name([], job.name), job.choices, record, job.overrides, tags),
        run_id=known.get(tracking.uri),
    )
    if tracking.uri not in known:
        study.set_user_attr(RUNS, known | {tracking.uri: run.run_id})
    study.set_user_attr(RECORD, record)
    return run


def command() -> None:
    """Run asr.search or, with search=decode, asr.tune, which has settings of its own since it trains nothing."""
    if "search=decode" in sys.argv[1:]:
        sys.argv.remove("search=decode")
        tune.main()
    else:
        main()


if __name__ == "__main__":
    command()
