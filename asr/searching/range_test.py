"""The learning-rate range test: a short run whose rate rises exponentially until the loss diverges.

source: Smith 2015, Cyclical Learning Rates for Training Neural Networks, section 3.3
"""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from asr.artifacts.plots import DEV, OTHER, TRAIN, new_figure, save_picture
from asr.config.build import build_experiment
from asr.config.rules import RANGE_TEST
from asr.console import console, print_facts, print_plan, print_whereabouts, progress_bar
from asr.data.batches import Position
from asr.errors import InputError
from asr.files import write_table
from asr.plan import plan_facts, plan_parts
from asr.searching.space import Space, trial_config
from asr.searching.trial import Search
from asr.settings import check
from asr.sweep import parent_tags
from asr.tracking.run import Description, Destination, open_run, own_directory, short_name
from asr.training.experiment import Experiment
from asr.training.step import train_step

FEWEST_POINTS = 5  # for a slope


class Point(NamedTuple):
    """A training step: its learning rate, its loss, and the smoothed loss."""

    learning_rate: float
    loss: float
    smoothed: float


class Curve(NamedTuple):
    """The points in order, and the rate at which the loss diverged or None."""

    points: list[Point]
    diverged_at: float | None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest per log rate; None if it falls nowhere."""
        if len(self.points) < FEWEST_POINTS:
            return None
        rates, _, smoothed = zip(*self.points, strict=True)
        slopes = np.gradient(smoothed, np.log(rates))
        best = int(np.argmin(slopes))
        return rates[best] if slopes[best] < 0 else None

    @property
    def suggestion(self) -> float | None:
        """The highest rate to train with: a tenth of the diverging rate or, if none, that of the steepest descent.

        With CTC the steepest descent is the fall to the plateau where the model outputs blanks only. Rates that
        suffice for it are far too low afterwards, so the diverging rate comes first.
        """
        return self.diverged_at / 10 if self.diverged_at else self.steepest


def exponential(optimizer: Optimizer, total_steps: int, high: float) -> LambdaLR:
    """Return a scheduler from the optimizer's lr at the first step to `high` at the last, by a constant factor."""
    low = optimizer.param_groups[0]["lr"]
    return LambdaLR(optimizer, lambda step: (high / low) ** (step / max(1, total_steps - 1)))


def run_range_test(search: Search) -> None:
    """Print the plan, run the test, write the curve and print the suggested learning rate."""
    config, job, space = search
    settings, tracking, directory = config.search, config.tracking, Path(config.output_dir)
    check(config, RANGE_TEST)
    low, high = rate_range(space)
    training = trial_config(config, space, {"optimizer.lr": low, "epochs": 1, "steps_per_epoch": settings.steps})
    training.scheduler = {"_target_": "asr.searching.range_test.exponential", "high": high}
    run = build_experiment(training)
    facts = {
        "range test": f"optimizer.lr rises from {low:g} to {high:g} in {settings.steps} steps by a constant factor, in "
        f"place of the schedule; it stops when the smoothed loss exceeds {settings.diverged_at:g} times its minimum"
    }
    print_plan(f"{job.name}: the plan", plan_parts(run.data), facts | plan_facts(training, run, directory))
    if config.dry_run:
        return
    recorded = {**run.config, "search": OmegaConf.to_container(settings, resolve=False)}
    tags = {"kind": "lr_range", "command": job.command, **parent_tags()}
    directory.mkdir(parents=True, exist_ok=True)
    own = own_directory(config.output_dir)  # each call is a run of its own
    destination = Destination(tracking.uri, tracking.experiment, tracking.system_metrics_seconds)
    description = Description(short_name(job.overrides), job.choices, recorded, job.overrides, tags)
    with open_run(own, destination, description) as tracked:
        curve = measure(run, settings.smoothing, settings.diverged_at)
        for step, point in enumerate(curve.points, start=1):
            tracked.log_metrics({f"range/{key}": value for key, value in point._asdict().items()}, step)
        table = write_table([point._asdict() for point in curve.points], directory / "lr_range.tsv")
        for path in (table, *save_picture(plot_curve(curve), directory / "lr_range.png")):
            tracked.log_file(path)
        for key, rate in (("steepest", curve.steepest), ("diverged_at", curve.diverged_at)):
            if rate is not None:
                tracked.set_tag(f"lr_range.{key}", rate)
    print_suggestion(curve, high)
    if (rate := curve.suggestion) is not None:
        best = trial_config(config, space, {"optimizer.lr": float(f"{rate:.2g}")})
        console.print(f"Train with it:\n{search.training_job(best).command}", soft_wrap=True)
    print_whereabouts(directory, tracking.uri)


def rate_range(space: Space) -> tuple[float, float]:
    """Return the ends of the range; raise an InputError unless it is of optimizer.lr alone."""
    distribution = space.drawn.get("optimizer.lr")
    if len(space.drawn) > 1 or not isinstance(distribution, FloatDistribution):
        raise InputError(
            f"search.space draws {', '.join(space.drawn)}: a range test needs optimizer.lr with low and high, alone"
        )
    low, high = distribution.low, distribution.high
    if not 0 < low < high:
        raise InputError(f"search.space.optimizer.lr: low={low} and high={high}: a range test needs 0 < low < high")
    return low, high


def measure(run: Experiment, smoothing: float, diverged_at: float) -> Curve:
    """Train until the rate is at its highest or the loss has diverged.

    smoothing:   factor of the exponential moving average of the loss, which is bias-corrected as in Adam
    diverged_at: multiple of its minimum above which the smoothed loss counts as diverged
    """
    model, max_grad_norm = run.recognizer.model.train(), run.config["max_grad_norm"]
    points: list[Point] = []
    mean = 0.0
    with progress_bar() as bar:
        task = bar.add_task("range test", total=run.steps_per_epoch, figures="")
        batches = islice(run.training_batches(Position(0, 0)), run.steps_per_epoch)
        for number, batch in enumerate(batches, start=1):
            step = train_step(model, batch, run.optimizer, run.scheduler, max_grad_norm, run.compute)
            if not step.updated:
                return Curve(points, step.learning_rate)
            mean = smoothing * mean + (1 - smoothing) * step.loss
            points.append(Point(step.learning_rate, step.loss, mean / (1 - smoothing**number)))
            bar.update(task, advance=1, figures=f"loss {step.loss:.3f}  lr {step.learning_rate:.2e}")
            if points[-1].smoothed > diverged_at * min(point.smoothed for point in points):
                return Curve(points, step.learning_rate)
    return Curve(points, None)


def plot_curve(curve: Curve) -> Figure:
    """Plot the loss by the learning rate, and mark the rates of divergence and of the steepest descent."""
    figure = new_figure(5.0)
    ax = figure.subplots()
    rates = [point.learning_rate for point in curve.points]
    ax.plot(rates, [point.loss for point in curve.points], color=TRAIN, linewidth=0.8, label="loss of a batch")
    ax.plot(rates, [point.smoothed for point in curve.points], color=DEV, linewidth=2, label="smoothed")
    for rate, name, style in ((curve.steepest, "steepest descent", "-"), (curve.diverged_at, "diverged", "--")):
        if rate is not None:
            ax.axvline(rate, color=OTHER, linestyle=style, label=f"{name}: {rate:.2g}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="CTC loss")
    ax.set_ylim(0, 1.1 * max((point.smoothed for point in curve.points), default=1.0))
    ax.grid(color="#e4e6ea", linewidth=0.8)
    ax.legend(frameon=False)
    return figure


def print_suggestion(curve: Curve, high: float) -> None:
    """Print the suggested rate, and the rule by which it was chosen."""
    rule = "a tenth of the rate at which the loss diverges" if curve.diverged_at else "the smoothed loss falls fastest"
    suggested = "none: the loss falls nowhere; try another low and high, or more steps"
    if rate := curve.suggestion:
        suggested = f"{rate:.2g} as the highest rate: {rule} (Smith 2015, Cyclical Learning Rates, section 3.3)"
    steepest = curve.steepest
    print_facts(
        {
            "suggestion": suggested,
            "diverges": f"at {curve.diverged_at:.2g}" if curve.diverged_at else f"not up to {high:g}",
            "falls fastest": f"at {steepest:.2g}; with CTC that is the fall to all blanks" if steepest else "nowhere",
        }
    )
