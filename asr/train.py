"""python -m asr.train: train a recogniser, keep its best weights, score them on the test parts.

python -m asr.train model=ds2_7gru data=clean
python -m asr.train experiment=quickstart dry_run=true
"""

import json
from collections.abc import Callable
from contextlib import closing, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet
from omegaconf import DictConfig, OmegaConf
from torch import nn

from asr.artifacts import augmentation
from asr.artifacts.error_table import error_rows
from asr.cli import entry_point
from asr.config.build import Session, build_session
from asr.config.naming import EXECUTION_KEYS, Job, current_job
from asr.console import console, print_plan, print_results, print_whereabouts, progress_bar
from asr.data.batches import Position, Share
from asr.data.dataset import UtteranceDataset
from asr.data.loader import evaluation_batches, training_batches
from asr.errors import DivergedError, InputError
from asr.files import write_json
from asr.metrics import ErrorRates
from asr.plan import plan_facts, plan_parts, plan_record
from asr.settings import differences
from asr.sweep import parent_tags
from asr.tracking.journal import Journal, has_finished
from asr.tracking.run import Description, Destination, Run, open_run, send_pending, short_name
from asr.training import checkpoint
from asr.training.distributed import ALONE, World, join
from asr.training.evaluation import Evaluation, score_parts
from asr.training.fit import fit
from asr.training.guard import Guard
from asr.training.memory_check import is_wanted, longest_batch, parallel, rehearse
from asr.training.signals import Interrupted, deferred
from asr.training.state import TrainState
from asr.training.watch import Watch

GROUPS = ("model", "data", "augment", "optimizer", "scheduler", "experiment", "scale", "sweep")


@entry_point("train")
def main(config: DictConfig) -> None:
    """The command: one run, named by its overrides."""
    with join().losses_explained():
        run(config, current_job("asr.train", GROUPS))


def run(config: DictConfig, job: Job) -> dict[str, ErrorRates]:
    """From plan to results by test part; empty after a dry run. In its directory a run goes on where it stopped.

    Where torchrun has started several processes, each calls it; the main one alone prints, writes and tracks.
    """
    world = join()
    console.quiet = not world.is_main
    session = world.together(lambda: build_session(config))
    directory = Path(config.output_dir)
    print_plan(f"{job.name}: the plan", plan_parts(session.data), plan_facts(config, session, directory))
    if config.dry_run:
        return {}
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    # The lock comes before any look at what the directory holds: another start of this run may be changing it.
    with world.together(lambda: closing(lock(directory, config.fresh)) if world.is_main else nullcontext()) as journal:
        state = TrainState(session.recognizer.model, session.optimizer, session.scheduler)
        world.together(lambda: restore(state, directory, plain, job, world))
        if world.max(int(world.is_main and has_finished(directory))):
            if journal:
                send_pending(journal)  # a kill after the end of the run may have left some
            return show_finished(config, directory, job.name)
        with (
            world.together(
                lambda: open_tracked(session, config, job, plain, journal) if journal else nullcontext()
            ) as tracked,
            world.losses_explained(),  # here too, so that it is told before the tracked run is closed
        ):
            train(state, session, config, plain, directory, tracked)
            results = test(state, session, config, directory, tracked)
    print_results(f"{job.name}: best.pt on the test parts", results)
    print_whereabouts(directory, config.tracking.uri)
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


def restore(state: TrainState, directory: Path, config: dict[str, Any], job: Job, world: World = ALONE) -> None:
    """Goes on from the last checkpoint that is whole, if there is one, else takes the weights of init_from, if any."""
    if world.rank:
        torch.manual_seed(config["seed"] + world.rank)  # the weights are made: dropout differs
    if found := checkpoint.load_last(directory):
        saved, path, problem = found
        if problem:
            console.print(f"{problem}. The run goes on from {path.name}, the one before.", soft_wrap=True)
        differing = differences(saved.config, config, ignore=EXECUTION_KEYS)
        if differing:
            raise InputError(
                f"{directory} holds a run with another config ({'; '.join(differing)}): only the same command goes on "
                "with it. fresh=true starts over and keeps the old under another name; so does another output_dir"
            )
        processes = 1 + len(saved.rng.get("others", []))
        if processes != world.size:
            how = f"torchrun --nproc-per-node={processes}" if processes > 1 else "python"
            raise InputError(
                f"{path} is of a run of {processes} processes, and now there are {world.size}: each has generators of "
                f"its own, which dropout uses. Start as many (on one machine by {how} -m asr.train ...), or start over "
                "with fresh=true, which keeps the old under another name"
            )
        state.restore(saved, path, world.rank)
        console.print(f"Goes on from {path}: epoch {state.epoch} is done, step {state.step:,}.", soft_wrap=True)
    elif config["init_from"]:
        path = Path(config["init_from"])
        refuse_unfinished(path, job)
        checkpoint.load_weights(state.model, checkpoint.load(path).model, path)


def refuse_unfinished(path: Path, job: Job) -> None:
    """A run of another command whose weights are wanted must have ended: until then its best.pt still changes."""
    typed = any(override.startswith("init_from=") for override in job.overrides)
    if typed and not (path.parent / checkpoint.LAST).exists():
        return  # any file that the user names: `load` says if it is none
    if not has_finished(path.parent):
        state = "has not ended" if path.exists() else "is not there"
        first = path.parent.name.split("+")[0]
        command = job.command.replace(f"experiment={job.choices.get('experiment')}", f"experiment={first}")
        raise InputError(
            f"init_from={path}: the run that this one starts from {state}. Run it to its end first ({command}); where "
            "a launcher runs jobs side by side, call it alone before the others"
        )


def show_finished(config: DictConfig, directory: Path, name: str) -> dict[str, ErrorRates]:
    """The results of a run that needs no more training."""
    stored = json.loads((directory / "results.json").read_text())
    results = {part: ErrorRates.from_json(rates) for part, rates in stored.items()}
    print_results(f"{name}: finished before (fresh=true trains it again)", results)
    print_whereabouts(directory, config.tracking.uri)
    return results


def open_tracked(session: Session, config: DictConfig, job: Job, plain: dict[str, Any], journal: Journal,
                 **tags: object) -> Run:  # fmt: skip
    """The tracked run: the one that it had before it was stopped, or a new one; under the sweep's, if any.

    It writes config.json and plan.json into the journal's directory first.
    """
    write_json(plain, journal.directory / "config.json")
    plan = write_json(plan_record(config, session, job), journal.directory / "plan.json")
    settings = config.tracking
    tracked = open_run(
        journal,
        Destination(settings.uri, settings.experiment, settings.system_metrics_seconds),
        Description(
            short_name(job.overrides, f"trial {tags['trial']}" if "trial" in tags else ""),
            job.choices,
            plain,
            job.overrides,
            {"command": job.command, **parent_tags(), **tags},
        ),
    )
    tracked.log_file(plan)
    return tracked


def train(state: TrainState, session: Session, config: DictConfig, plain: dict[str, Any], directory: Path,
          tracked: Run | None, after_epoch: Callable[[TrainState], None] | None = None) -> None:  # fmt: skip
    """Runs `fit` with everything that watches it: progress, MLflow, history.jsonl, checkpoints, then after_epoch.

    tracked: of the main process; the others have none
    raises:  Interrupted on Ctrl-C or SIGTERM, between two batches, when all that was done is saved
    """
    compute, world, recognizer = session.compute, session.compute.world, session.recognizer
    cuts = session.data.training_cuts()
    dataset = recognizer.dataset(session.augment, config.seed, skip_unreadable=True)
    share = Share(world.rank, world.size, config.batch.accumulate)
    world.on_main(lambda: log_augmentation(dataset, cuts, directory, tracked))
    model = ready_model(session, config, dataset, share)
    loading = (config.workers, compute.pin_memory, share)
    batches = training_batches(dataset, session.passes, Position(*state.position), *loading)
    dev = (recognizer.dataset(None, config.seed), session.data.dev_cuts(), config.batch.eval_seconds)
    total_steps = config.epochs * session.steps_per_epoch
    with progress_bar() as bar, deferred(world.max) as stop:
        watch = Watch(bar, tracked, directory, plain, Guard(directory, plain, len(cuts)), stop, world, state.step,
                      total_steps, after_epoch)  # fmt: skip
        try:
            fit(
                state, model, batches, lambda: stop.heeded(evaluation_batches(*dev, *loading)), recognizer.alphabet,
                compute, epochs=config.epochs, steps_per_epoch=session.steps_per_epoch,
                max_grad_norm=config.max_grad_norm, monitor=config.monitor, accumulate=config.batch.accumulate,
                read_every=compute.read_every(config.tracking.log_every),
                ask=watch.ask, on_step=watch.step, on_read=watch.read, on_epoch=watch.epoch,
            )  # fmt: skip
        except Interrupted as interrupted:
            watch.save(state)
            console.print(
                f"Stopped by {interrupted} after step {state.step:,}, saved: the same command goes on there.",
                soft_wrap=True,
            )
            raise


def log_augmentation(dataset: UtteranceDataset, cuts: CutSet, directory: Path, tracked: Run | None) -> None:
    """An utterance before and after each transform, in the directory and in MLflow."""
    if tracked and dataset.augment and dataset.augment.transforms:
        for path in augmentation.write_augmentation(dataset, cuts, directory / "augmentation"):
            tracked.log_file(path, "augmentation")


def ready_model(session: Session, config: DictConfig, dataset: UtteranceDataset, share: Share) -> nn.Module:
    """The model as all processes train it together, after the rehearsal of the longest batch if that is wanted."""
    compute = session.compute
    model = parallel(session.recognizer.model, compute)
    if is_wanted(config.rehearse, compute):
        longest = longest_batch(dataset, session.passes, share)
        compute.world.together(lambda: rehearse(model, longest, session.optimizer, compute))
    return model


def test(
    state: TrainState, session: Session, config: DictConfig, directory: Path, tracked: Run | None
) -> dict[str, ErrorRates]:
    """Scores best.pt on every test part, once, and writes what people look at."""
    best, world = directory / checkpoint.BEST, session.compute.world
    step = world.together(lambda: take_best(state, best, config.monitor))
    parts = {part: selection.kept for part, selection in session.data.test.items()}
    evaluations = score_parts(session.recognizer, session.compute, parts, config.batch.eval_seconds, config.workers)
    results = {part: evaluation.rates for part, evaluation in evaluations.items()}
    if tracked:
        write_results(evaluations, results, state, step, directory, tracked)
    return results


def take_best(state: TrainState, best: Path, monitor: str) -> int:
    """Puts the weights of best.pt into the model; returns the step that they are of."""
    if not best.exists():
        raise DivergedError(f"{best} is not there: no epoch had a finite dev_{monitor}; lower optimizer.lr")
    saved = checkpoint.load(best)
    checkpoint.load_weights(state.model, saved.model, best)
    return saved.progress["step"]


def write_results(evaluations: dict[str, Evaluation], results: dict[str, ErrorRates], state: TrainState, step: int,
                  directory: Path, tracked: Run) -> None:  # fmt: skip
    """results.json, error tables and curves, in the directory and in MLflow."""
    from asr.artifacts.plots import learning_curves

    for part, evaluation in evaluations.items():
        tracked.log_table(error_rows(evaluation.scored), f"errors/{part}")
        tracked.log_metrics({f"{part}/{name}": v for name, v in evaluation.as_metrics().items()}, step)
    write_json({part: rates.to_json() for part, rates in results.items()}, directory / "results.json")
    curves = directory / "learning_curves.png"
    learning_curves(state.history).savefig(curves)
    for path in (directory / "results.json", directory / "history.jsonl", curves):
        tracked.log_file(path)
    tracked.log_file(directory / checkpoint.BEST, "checkpoints")


if __name__ == "__main__":
    main()
