"""python -m asr.train: train a recogniser, keep its best weights, score them on the test parts.

python -m asr.train model=ds2_7gru data=clean
python -m asr.train experiment=quickstart dry_run=true
"""

import json
import textwrap
from collections.abc import Mapping
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import torch
from omegaconf import DictConfig

from asr.artifacts.augmentation import write_augmentation
from asr.artifacts.error_page import TrainingWords, write_error_page
from asr.artifacts.error_table import error_rows, write_utterances
from asr.cli import entry_point
from asr.config.build import build_experiment
from asr.config.naming import NOT_COMPARED, Job, current_job
from asr.console import console, print_demo, print_plan, print_results, print_whereabouts
from asr.errors import DivergedError, InputError
from asr.files import write_json
from asr.metrics import ErrorRates
from asr.plan import plan_facts, plan_parts, plan_record
from asr.settings import differences
from asr.sweep import parent_tags
from asr.tracking.journal import Journal, has_finished
from asr.tracking.run import Description, Destination, Run, open_run, send_pending, short_name
from asr.training import checkpoint
from asr.training.distributed import init_distributed
from asr.training.evaluation import Evaluation, score_parts
from asr.training.experiment import Experiment
from asr.training.loop import fit
from asr.training.monitor import TrainingMonitor, example_lines
from asr.training.signals import Interrupted
from asr.training.state import TrainState

NOTE_TAG = "mlflow.note.content"  # of a run: its description in MLflow
DEV_METRICS = ("dev/loss", "dev/wer", "dev/cer")
GROUPS = ("model", "data", "augment", "optimizer", "scheduler", "decode", "experiment", "scale", "debug", "sweep")


@entry_point("train")
def main(config: DictConfig) -> None:
    """Train and test one run, named by its overrides."""
    with init_distributed().explain_lost_ranks():
        run(config, current_job("asr.train", GROUPS))


def run(config: DictConfig, job: Job) -> dict[str, ErrorRates]:
    """Train and test; return the error rates by test part, none after a dry run. A run that was stopped is resumed.

    Where torchrun has started several processes, each calls it; the main one alone prints, writes and tracks.
    """
    world = init_distributed()
    console.quiet = not world.is_main
    with world.errors_shared():
        experiment = build_experiment(config)
    directory = Path(config.output_dir)
    print_plan(f"{job.name}: the plan", plan_parts(experiment.data), plan_facts(config, experiment, directory))
    if config.dry_run:
        return {}
    with ExitStack() as stack:
        journal = tracked = None
        # The lock comes before any look at what the directory holds: another start of this run may be changing it.
        with world.errors_shared():
            if world.is_main:
                journal = stack.enter_context(closing(lock(directory, config.fresh)))
        state = TrainState(experiment.recognizer.model, experiment.optimizer, experiment.scheduler)
        with world.errors_shared():
            restore(state, directory, experiment, job)
        if world.max(int(world.is_main and has_finished(directory))):
            if journal:
                send_pending(journal)  # a kill after the end of the run may have left some
            return show_finished(config, directory, job.name)
        with world.errors_shared():
            if journal:
                tracked = stack.enter_context(open_tracked(config, experiment, job, journal))
        stack.enter_context(world.explain_lost_ranks())  # here too, so that it is reported before the run is closed
        train(experiment, state, TrainingMonitor(experiment, state, directory, tracked))
        evaluations = test(experiment, state, directory, tracked)
        results = {part: evaluation.rates for part, evaluation in evaluations.items()}
        if tracked:
            tracked.set_tag(NOTE_TAG, run_note(job.command, results))
    print_results(f"{job.name}: best.pt on the test parts", results)
    for part, evaluation in evaluations.items():
        console.print(f"Three utterances of {part}, reference -> transcript:", soft_wrap=True)
        for line in example_lines(evaluation.examples(), console.width):
            console.print(line, soft_wrap=True)
    print_whereabouts(directory, config.tracking.uri)
    print_demo(directory / checkpoint.BEST)
    return results


def lock(directory: Path, fresh: bool) -> Journal:
    """Lock the directory of a run; fresh renames what an earlier run left there to NAME.old-1, NAME.old-2, ...

    raises: BusyError if another process trains there
    """
    if fresh and directory.is_dir() and any(directory.iterdir()):
        with closing(Journal(directory)):
            names = (directory.with_name(f"{directory.name}.old-{number}") for number in count(1))
            directory.rename(next(name for name in names if not name.exists()))
    return Journal(directory)


def restore(state: TrainState, directory: Path, run: Experiment, job: Job) -> None:
    """Resume from the directory's last whole checkpoint; if there is none, take the weights of init_from, if any."""
    world = run.compute.world
    if world.rank:
        torch.manual_seed(run.config["seed"] + world.rank)  # the weights are made: dropout differs
    if found := checkpoint.load_last(directory):
        saved, path, problem = found
        if problem:
            console.print(f"{problem}. The run resumes from {path.name}, the one before.", soft_wrap=True)
        differing = differences(saved.config, run.config, ignore=NOT_COMPARED)
        if differing:
            raise InputError(
                f"{directory} holds a run with another config ({'; '.join(differing)}): only the same command resumes "
                "it. fresh=true starts over and keeps the old under another name; so does another output_dir"
            )
        state.restore(saved, path, world)
        console.print(f"Resumes from {path}: epoch {state.epoch} is done, step {state.step:,}.", soft_wrap=True)
        if saved.processes != world.size:
            console.print(
                f"It was saved by {saved.processes} processes, and now there are {world.size}: the batches stay the "
                "same, but dropout's draws and rounding differ from those of an uninterrupted run.",
                soft_wrap=True,
            )
    elif run.config["init_from"]:
        path = Path(run.config["init_from"])
        validate_init_from(path, job)
        checkpoint.load_weights(state.model, checkpoint.load(path).model, path)


def validate_init_from(path: Path, job: Job) -> None:
    """InputError if the run whose weights are wanted has not ended: until then its best.pt still changes."""
    typed = any(override.startswith("init_from=") for override in job.overrides)
    if typed and not (path.parent / checkpoint.LAST).exists():
        return  # any file that the user names: `load` checks it
    if not has_finished(path.parent):
        state = "has not ended" if path.exists() else "is not there"
        first = path.parent.name.split("+")[0]
        command = job.command.replace(f"experiment={job.choices.get('experiment')}", f"experiment={first}")
        raise InputError(
            f"init_from={path}: the run that this one starts from {state}. Run it to its end first ({command}); where "
            "a launcher runs jobs side by side, call it alone before the others"
        )


def show_finished(config: DictConfig, directory: Path, name: str) -> dict[str, ErrorRates]:
    """Print and return the results of a run that was finished before."""
    stored = json.loads((directory / "results.json").read_text())
    results = {part: ErrorRates.from_json(rates) for part, rates in stored.items()}
    print_results(f"{name}: finished before (fresh=true trains it again)", results)
    print_whereabouts(directory, config.tracking.uri)
    print_demo(directory / checkpoint.BEST)
    return results


def open_tracked(config: DictConfig, run: Experiment, job: Job, journal: Journal, **tags: object) -> Run:
    """Open the tracked run: the one that was stopped, or a new one; under the sweep's, if any.

    It writes config.json and plan.json into the journal's directory first.
    """
    write_json(run.config, journal.directory / "config.json")
    plan = write_json(plan_record(config, run, job), journal.directory / "plan.json")
    settings = config.tracking
    tracked = open_run(
        journal,
        Destination(settings.uri, settings.experiment, settings.system_metrics_seconds),
        Description(
            short_name(job.overrides, f"trial {tags['trial']}" if "trial" in tags else ""),
            job.choices,
            run.config,
            job.overrides,
            {"command": job.command, NOTE_TAG: run_note(job.command, {}), **parent_tags(), **tags},
        ),
    )
    tracked.log_file(plan)
    for role, parts in run.data.roles().items():
        for part, selection in parts.items():
            profile = {"num_rows": len(selection.kept), "hours": selection.hours}  # MLflow shows num_rows
            tracked.log_dataset(part, role, selection.kept.digest(), selection.kept.root, profile)
    return tracked


def run_note(command: str, results: Mapping[str, ErrorRates]) -> str:
    """Return the description of a run in MLflow, in Markdown: the command and a table of the results, if any."""
    rows = "".join(
        f"| {part} | {rates.words.rate:.2%} | {rates.characters.rate:.2%} |\n" for part, rates in results.items()
    )
    table = f"\n| best.pt on | WER | CER |\n|---|---|---|\n{rows}" if rows else ""
    return textwrap.indent(command, "    ") + "\n" + table


def train(run: Experiment, state: TrainState, monitor: TrainingMonitor) -> None:
    """Draw the augmentation, then train to the last epoch.

    raises: Interrupted on Ctrl-C or SIGTERM, between two batches, when all that was done is saved
    """
    with run.compute.world.errors_shared():
        if monitor.tracked:
            log_augmentation(run, monitor.directory, monitor.tracked)
    with monitor:
        try:
            fit(run, state, monitor)
        except Interrupted as signal:
            monitor.save(state)
            stopped = f"Stopped by {signal} after step {state.step:,}, saved: rerun the command to resume."
            console.print(stopped, soft_wrap=True)
            raise


def log_augmentation(run: Experiment, directory: Path, tracked: Run) -> None:
    """Draw an utterance before and after each transform, in the directory and in MLflow."""
    if run.augment.transforms:
        utterances = run.data.training_utterances()
        for path in write_augmentation(run.training_dataset(), utterances, directory / "augmentation"):
            tracked.log_file(path, "augmentation")


def test(run: Experiment, state: TrainState, directory: Path, tracked: Run | None) -> dict[str, Evaluation]:
    """Score best.pt on every test part, once, and write what people look at."""
    with run.compute.world.errors_shared():
        step = take_best(state, directory / checkpoint.BEST, run.config["monitor"])
    parts = {part: selection.kept for part, selection in run.data.test.items()}
    settings = run.config["batch"]["eval_seconds"], run.config["workers"]
    evaluations = score_parts(run.recognizer, run.compute, run.decoder, parts, *settings)
    if tracked:
        write_results(run, evaluations, state, step, directory, tracked)
    return evaluations


def take_best(state: TrainState, best: Path, monitor: str) -> int:
    """Put the weights of best.pt into the model; return the step that they are of."""
    if not best.exists():
        raise DivergedError(f"{best} is not there: no epoch had a finite dev_{monitor}; lower optimizer.lr")
    saved = checkpoint.load(best)
    checkpoint.load_weights(state.model, saved.model, best)
    return saved.progress["step"]


def write_results(
    run: Experiment, evaluations: dict[str, Evaluation], state: TrainState, step: int, directory: Path, tracked: Run
) -> None:
    """Write results.json, error tables and pages, and curves into the directory and MLflow."""
    from asr.artifacts.plots import learning_curves, save_picture

    metrics = {f"{part}/{name}": v for part, one in evaluations.items() for name, v in one.as_metrics().items()}
    tracked.log_metrics(metrics, step)
    for part, evaluation in evaluations.items():
        tracked.log_table(error_rows(evaluation.scored), f"errors/{part}")
        tracked.log_file(write_utterances(evaluation.scored, directory / "errors" / part))
    rates = {part: evaluation.rates.to_json() for part, evaluation in evaluations.items()}
    write_json(rates, directory / "results.json")
    curves = save_picture(learning_curves(state.history), directory / "learning_curves.png")
    for path in (directory / "results.json", directory / "history.jsonl", *curves):
        tracked.log_file(path)
    tracked.log_file(directory / checkpoint.BEST, "checkpoints")
    tracked.log_model([*DEV_METRICS, *metrics], step)
    trained_on = {part: selection.kept for part, selection in run.data.train.items()}
    words = TrainingWords.of(trained_on, run.recognizer.alphabet)
    for part, evaluation in evaluations.items():
        utterances, folder = run.data.test[part].kept, directory / "errors" / part
        tracked.log_file(write_error_page(part, evaluation.scored, utterances, run.recognizer, words, folder))


if __name__ == "__main__":
    main()
