"""The learning-rate range test: one short run whose rate rises exponentially, to see where the loss falls and breaks.

source: Smith 2015, Cyclical Learning Rates for Training Neural Networks, section 3.3
"""

from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import FloatDistribution
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from asr.artifacts.plots import DEV, OTHER, TRAIN, new_figure
from asr.config.build import Session, build_session
from asr.config.naming import Job
from asr.console import console, print_facts, print_plan, print_whereabouts, progress_bar
from asr.data.batches import WHOLE, Position
from asr.data.loader import training_batches
from asr.errors import InputError
from asr.files import write_table
from asr.plan import plan_facts, plan_parts
from asr.searching.space import Space, space_facts, trial_settings, with_settings
from asr.searching.trial import train_command
from asr.settings import WHOLE_FROM_1, Rule, check
from asr.sweep import parent_tags
from asr.tracking.run import Description, Destination, open_run, short_name
from asr.training.step import read, train_step

BELOW_1 = Rule("from 0 to below 1", lambda value: type(value) in (int, float) and 0 <= value < 1)
ABOVE_1 = Rule("a number above 1", lambda value: type(value) in (int, float) and value > 1)
FEWEST_POINTS = 5  # of which a slope can be told


class Point(NamedTuple):
    """A training step: the rate that it used, its loss, and the smoothed loss up to it."""

    learning_rate: float
    loss: float
    smoothed: float


class Curve(NamedTuple):
    """points in order; diverged_at: the rate at which the run was stopped, None if it came to its end."""

    points: list[Point]
    diverged_at: float | None


def exponential(optimizer: Optimizer, total_steps: int, high: float) -> LambdaLR:
    """From the optimizer's lr at the first step to `high` at the last, each step by the same factor."""
    low = optimizer.param_groups[0]["lr"]
    return LambdaLR(optimizer, lambda step: (high / low) ** (step / max(1, total_steps - 1)))


def run_range_test(config: DictConfig, job: Job, space: Space) -> None:
    """From plan to plot and suggestion."""
    search = config.search
    check(config, {WHOLE_FROM_1: "search.steps", BELOW_1: "search.smoothing", ABOVE_1: "search.diverged_at"})
    low, high = rate_range(space)
    training = range_config(config, low, high)
    session, directory = build_session(training), Path(config.output_dir)
    facts = {
        "range test": f"optimizer.lr rises from {low:g} to {high:g} in {search.steps} steps, each by the same factor, "
        f"in place of the schedule; it ends where the smoothed loss is {search.diverged_at:g} times its lowest",
        **{key: value for key, value in space_facts(config, space).items() if key != "space"},
    }
    print_plan(f"{job.name}: the plan", plan_parts(session.data), facts | plan_facts(training, session, directory))
    if config.dry_run:
        return
    plain: Any = OmegaConf.to_container(training, resolve=True)
    plain["search"] = OmegaConf.to_container(search, resolve=False)
    tags = {"kind": "lr_range", "command": job.command, **parent_tags()}
    tracking = config.tracking
    directory.mkdir(parents=True, exist_ok=True)
    own = Path(mkdtemp(prefix="tracked-", dir=directory))  # each call is a run of its own
    destination = Destination(tracking.uri, tracking.experiment, tracking.system_metrics_seconds)
    description = Description(short_name(job.overrides), job.choices, plain, job.overrides, tags)
    with open_run(own, destination, description) as tracked:
        curve = measure(session, training, search.smoothing, search.diverged_at)
        for step, point in enumerate(curve.points, start=1):
            tracked.log_metrics({f"range/{key}": value for key, value in point._asdict().items()}, step)
        steepest = steepest_descent(curve.points)
        for path in write_curve(curve, steepest, directory):
            tracked.log_file(path)
        for key, rate in (("steepest", steepest), ("diverged_at", curve.diverged_at)):
            if rate is not None:
                tracked.set_tag(f"lr_range.{key}", rate)
    print_suggestion(curve, steepest, high)
    if (rate := suggestion(curve, steepest)) is not None:
        settings = trial_settings(config, space, {"optimizer.lr": float(f"{rate:.2g}")})
        console.print(f"Train with it:\n{train_command(job, settings)}", soft_wrap=True)
    print_whereabouts(directory, tracking.uri)


def rate_range(space: Space) -> tuple[float, float]:
    """The ends of the range, which must be of optimizer.lr and nothing else."""
    first = space.parameters[0]
    distribution = first.distribution
    if len(space.parameters) > 1 or first.key != "optimizer.lr" or not isinstance(distribution, FloatDistribution):
        keys = ", ".join(parameter.key for parameter in space.parameters)
        raise InputError(f"search.space holds {keys}: a range test needs optimizer.lr with low and high, alone")
    if not 0 < distribution.low < distribution.high:
        raise InputError(
            f"search.space: low={distribution.low} and high={distribution.high}: a range test needs 0 < low < high"
        )
    return distribution.low, distribution.high


def range_config(config: DictConfig, low: float, high: float) -> DictConfig:
    """The training with the rising rate in the place of its schedule: an epoch of search.steps."""
    training = with_settings(config, {"optimizer.lr": low, "epochs": 1, "steps_per_epoch": config.search.steps})
    training.scheduler = {"_target_": "asr.searching.range_test.exponential", "high": high}
    return training


def measure(session: Session, config: DictConfig, smoothing: float, diverged_at: float) -> Curve:
    """Trains until the rate is at its highest or the loss has broken out.

    The smoothed loss is the exponential mean of those so far, without the pull of its start towards zero.
    """
    dataset = session.recognizer.dataset(session.augment, config.seed, skip_unreadable=True)
    pieces = config.batch.accumulate
    batches = training_batches(
        dataset,
        session.passes,
        Position(0, 0),
        config.workers,
        session.compute.pin_memory,
        WHOLE._replace(pieces=pieces),
    )
    model, optimizer, scheduler = session.recognizer.model, session.optimizer, session.scheduler
    model.train()
    points: list[Point] = []
    mean = 0.0
    with progress_bar() as bar:
        task = bar.add_task("range test", total=session.steps_per_epoch, figures="")
        for number in range(1, session.steps_per_epoch + 1):
            rate, batch = optimizer.param_groups[0]["lr"], list(islice(batches, pieces))
            (step,) = read(
                [train_step(model, batch, optimizer, scheduler, config.max_grad_norm, session.compute)],
                session.compute.world,
            )
            if not step.updated:
                return Curve(points, rate)
            mean = smoothing * mean + (1 - smoothing) * step.loss
            points.append(Point(rate, step.loss, mean / (1 - smoothing**number)))
            bar.update(task, advance=1, figures=f"loss {step.loss:.3f}  lr {rate:.2e}")
            if points[-1].smoothed > diverged_at * min(point.smoothed for point in points):
                return Curve(points, rate)
    return Curve(points, None)


def steepest_descent(points: list[Point]) -> float | None:
    """The rate at which the smoothed loss falls fastest, by the logarithm of the rate; None if it falls nowhere."""
    if len(points) < FEWEST_POINTS:
        return None
    slopes = np.gradient([p.smoothed for p in points], np.log([p.learning_rate for p in points]))
    best = int(np.argmin(slopes))
    return points[best].learning_rate if slopes[best] < 0 else None


def suggestion(curve: Curve, steepest: float | None) -> float | None:
    """The highest rate to train with: a tenth of that where the loss breaks out; else that of the steepest descent.

    With CTC the steepest descent is the fall onto the plateau of blanks, for which rates do that are far too low later.
    """
    return curve.diverged_at / 10 if curve.diverged_at else steepest


def write_curve(curve: Curve, steepest: float | None, directory: Path) -> list[Path]:
    """lr_range.tsv and lr_range.png."""
    table = write_table([point._asdict() for point in curve.points], directory / "lr_range.tsv")
    picture = directory / "lr_range.png"
    draw(curve, steepest).savefig(picture)
    return [table, picture]


def draw(curve: Curve, steepest: float | None) -> Figure:
    """The loss by the learning rate, with the marks that the suggestion names."""
    figure = new_figure(5.0)
    ax = figure.subplots()
    rates = [point.learning_rate for point in curve.points]
    ax.plot(rates, [point.loss for point in curve.points], color=TRAIN, linewidth=0.8, label="loss of a batch")
    ax.plot(rates, [point.smoothed for point in curve.points], color=DEV, linewidth=2, label="smoothed")
    for rate, name in ((steepest, "steepest descent"), (curve.diverged_at, "diverged")):
        if rate is not None:
            ax.axvline(rate, color=OTHER, linestyle="--" if name == "diverged" else "-", label=f"{name}: {rate:.2g}")
    ax.set_xscale("log")
    ax.set_ylim(0, 1.1 * max((point.smoothed for point in curve.points), default=1.0))
    ax.set_xlabel("learning rate")
    ax.set_ylabel("CTC loss")
    ax.grid(color="#e4e6ea", linewidth=0.8)
    ax.legend(frameon=False)
    return figure


def print_suggestion(curve: Curve, steepest: float | None, high: float) -> None:
    """What the curve says, with the rules it was read by."""
    told = "none: the loss falls nowhere; try another low and high, or more steps"
    if curve.diverged_at:
        told = f"{curve.diverged_at / 10:.2g} as the highest rate: a tenth of that where the loss breaks out"
    elif steepest is not None:
        told = f"{steepest:.2g} as the highest rate: the smoothed loss falls fastest there"
    print_facts(
        {
            "suggestion": told,
            "breaks out": f"at {curve.diverged_at:.2g}" if curve.diverged_at else f"not up to {high:g}",
            "falls fastest": f"at {steepest:.2g}; with CTC that is the fall onto blanks" if steepest else "nowhere",
            "source": "Smith 2015, Cyclical Learning Rates, section 3.3: the range from where the loss begins to fall "
            "to where it gets ragged; steepest descent and a tenth of the divergence point are the usual readings",
        }
    )
