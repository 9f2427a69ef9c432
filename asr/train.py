"""python -m asr.train: train a recogniser, keep its best weights, score them on the test parts.

python -m asr.train model=ds2_7gru data=clean
python -m asr.train experiment=quickstart dry_run=true
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr import artifacts, checkpoint
from asr.build import Session, build_session, score_parts
from asr.checkpoint import TrainState
from asr.cli import EXECUTION_KEYS, Job, current_job, entry_point, remove_if_empty
from asr.console import console, print_plan, print_results, print_whereabouts, progress_bar
from asr.dataset import Batch, Position, evaluation_batches, training_batches
from asr.errors import InputError
from asr.loop import Compute, EpochSummary, Evaluation, StepMetrics, evaluate, train_epoch
from asr.metrics import ErrorRates
from asr.pictures import learning_curves
from asr.plan import plan_facts, plan_parts, plan_record
from asr.settings import differences
from asr.sweep import parent_tags
from asr.text import Alphabet
from asr.tracking import Run, open_run
from asr.watch import Watch

GROUPS = ("model", "data", "augment", "optimizer", "scheduler", "experiment", "scale", "sweep")


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    dev_batches: Callable[[], Iterable[Batch]],
    alphabet: Alphabet,
    compute: Compute,
    *,
    epochs: int,
    steps_per_epoch: int,
    max_grad_norm: float,
    monitor: str,
    on_step: Callable[[TrainState, StepMetrics], None],
    on_epoch: Callable[[TrainState, bool], None],
) -> None:
    """Trains until `epochs` are done; after each it scores dev and tells on_epoch whether that is the best so far.

    monitor: the dev score whose lowest value is the best: loss, wer, cer, mean_wer or mean_cer
    """

    def count_step(batch: Batch, metrics: StepMetrics) -> None:
        state.step += 1
        state.position = Position(batch.position.pass_number, batch.position.batch_index + 1)
        on_step(state, metrics)

    while state.epoch < epochs:
        trained = train_epoch(
            state.model, batches, steps_per_epoch, state.optimizer, state.scheduler, max_grad_norm, compute, count_step
        )
        dev = evaluate(state.model, dev_batches(), alphabet, compute)
        state.epoch += 1
        state.history.append(epoch_record(state, trained, dev))
        score = dev.as_metrics()[monitor]
        better = state.best is None or score < state.best
        state.best = score if better else state.best
        on_epoch(state, better)


def epoch_record(state: TrainState, trained: EpochSummary, dev: Evaluation) -> dict[str, Any]:
    """What an epoch leaves in history.jsonl and MLflow; audio_seconds_per_second includes waiting for data."""
    return {
        "epoch": state.epoch,
        "step": state.step,
        "learning_rate": state.scheduler.get_last_lr()[0],
        "train_loss": trained.loss,
        "train_grad_norm": trained.grad_norm,
        "train_utterances": trained.utterances,
        "train_audio_seconds": trained.audio_seconds,
        "train_padding_share": trained.padding_share,
        "train_wall_seconds": trained.wall_seconds,
        "train_audio_seconds_per_second": trained.audio_seconds / trained.wall_seconds,
        "dev_unalignable": dev.unalignable,
        "dev_wall_seconds": dev.wall_seconds,
        **{f"dev_{name}": value for name, value in dev.as_metrics().items()},
    }


@entry_point("train")
def main(config: DictConfig) -> None:
    """The command: one run, named by its overrides."""
    try:
        run(config, current_job("asr.train", GROUPS))
    finally:
        remove_if_empty(Path(config.output_dir))


def run(config: DictConfig, job: Job) -> dict[str, ErrorRates]:
    """From plan to results by test part; empty after a dry run. In its directory a run goes on where it stopped."""
    directory = Path(config.output_dir)
    session = build_session(config)
    print_plan(f"{job.name}: the plan", plan_parts(session.data), plan_facts(config, session, directory))
    if config.dry_run:
        return {}
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if config.fresh:
        set_aside(directory)
    state = TrainState(session.recognizer.model, session.optimizer, session.scheduler)
    restore(state, directory, plain, job)
    if (directory / "results.json").exists():
        return show_finished(config, directory, job.name)

    with open_tracked(session, config, job, plain, directory) as tracked:
        train(state, session, config, plain, directory, tracked)
        results = test(state, session, config, directory, tracked)
    print_results(f"{job.name}: best.pt on the test parts", results)
    print_whereabouts(directory, config.tracking.uri)
    return results


def set_aside(directory: Path) -> None:
    """Renames what an earlier run left to NAME.old-1, NAME.old-2, ..."""
    if directory.is_dir() and any(directory.iterdir()):
        names = (directory.with_name(f"{directory.name}.old-{number}") for number in count(1))
        directory.rename(next(name for name in names if not name.exists()))


def restore(state: TrainState, directory: Path, config: dict[str, Any], job: Job) -> None:
    """Goes on from last.pt if the directory has one, else takes the weights of init_from, if any."""
    last = directory / "last.pt"
    if last.exists():
        saved = checkpoint.load(last)
        differing = differences(saved.config, config, ignore=EXECUTION_KEYS)
        if differing:
            raise InputError(
                f"{directory} holds a run with another config ({'; '.join(differing)}): only the same command goes on "
                "with it. fresh=true starts over and keeps the old under another name; so does another output_dir"
            )
        state.restore(saved, last)
        console.print(f"Goes on from {last}: epoch {state.epoch} is done, step {state.step:,}.")
    elif config["init_from"]:
        path = Path(config["init_from"])
        refuse_unfinished(path, job)
        checkpoint.load_weights(state.model, checkpoint.load(path).model, path)


def refuse_unfinished(path: Path, job: Job) -> None:
    """A run of another command whose weights are wanted must have ended: until then its best.pt still changes."""
    if any(override.startswith("init_from=") for override in job.overrides) and not (path.parent / "last.pt").exists():
        return  # any file that the user names: `load` says if it is none
    if not (path.parent / "results.json").exists():
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


def open_tracked(session: Session, config: DictConfig, job: Job, plain: dict[str, Any], directory: Path,
                 **tags: object) -> Run:  # fmt: skip
    """The tracked run: the one that it had before it was stopped, or a new one; under the sweep's, if any.

    It writes config.json and plan.json into the directory first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(plain, directory / "config.json")
    plan = artifacts.write_json(plan_record(config, session, job), directory / "plan.json")
    settings = config.tracking
    tracked = open_run(
        directory,
        settings.uri,
        settings.experiment,
        job.name,
        job.choices,
        plain,
        tags={"command": job.command, **parent_tags(), **tags},
        system_metrics_seconds=settings.system_metrics_seconds,
    )
    tracked.log_file(plan)
    return tracked


def train(state: TrainState, session: Session, config: DictConfig, plain: dict[str, Any], directory: Path, tracked: Run,
          after_epoch: Callable[[TrainState], None] | None = None) -> None:  # fmt: skip
    """Runs `fit` with everything that watches it: progress, MLflow, history.jsonl, checkpoints, then after_epoch."""
    dataset = session.recognizer.dataset(session.augment, config.seed)
    if session.augment.transforms:
        for path in artifacts.write_augmentation(dataset, session.data.training_cuts()[0], directory / "augmentation"):
            tracked.log_file(path, "augmentation")
    batches = training_batches(
        dataset, session.sampler, Position(*state.position), config.workers, session.compute.pin_memory
    )
    plain_dataset, dev_cuts = session.recognizer.dataset(None, config.seed), session.data.dev_cuts()

    def dev_batches() -> Iterator[Batch]:
        return evaluation_batches(
            plain_dataset, dev_cuts, config.batch.eval_seconds, config.workers, session.compute.pin_memory
        )

    with progress_bar() as bar:
        watch = Watch(bar, tracked, directory, plain, state.step, config.epochs * session.steps_per_epoch, after_epoch)
        fit(
            state,
            batches,
            dev_batches,
            session.recognizer.alphabet,
            session.compute,
            epochs=config.epochs,
            steps_per_epoch=session.steps_per_epoch,
            max_grad_norm=config.max_grad_norm,
            monitor=config.monitor,
            on_step=watch.step,
            on_epoch=watch.epoch,
        )


def test(
    state: TrainState, session: Session, config: DictConfig, directory: Path, tracked: Run
) -> dict[str, ErrorRates]:
    """Scores best.pt on every test part, once, and writes what people look at."""
    best = directory / "best.pt"
    saved = checkpoint.load(best)
    checkpoint.load_weights(state.model, saved.model, best)
    results = {}
    parts = {part: selection.kept for part, selection in session.data.test.items()}
    evaluations = score_parts(session.recognizer, session.compute, parts, config.batch.eval_seconds, config.workers)
    for part, evaluation in evaluations.items():
        results[part] = evaluation.rates
        rows = artifacts.error_rows(evaluation.scored)
        tracked.log_table(rows, f"errors/{part}")
        tracked.log_metrics(
            {f"{part}/{name}": v for name, v in evaluation.as_metrics().items()}, saved.progress["step"]
        )
    artifacts.write_json({part: rates.to_json() for part, rates in results.items()}, directory / "results.json")
    curves = directory / "learning_curves.png"
    learning_curves(state.history).savefig(curves)
    for path in (directory / "results.json", directory / "history.jsonl", curves):
        tracked.log_file(path)
    tracked.log_file(best, "checkpoints")
    return results


if __name__ == "__main__":
    main()
