"""What a run is about to do, printed before it does it."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr.config.naming import Job
from asr.console import PartPlan
from asr.data.parts import Data
from asr.data.selection import describe_dropped
from asr.models.deep_speech2 import count_parameters
from asr.training.experiment import Experiment


def plan_parts(data: Data) -> list[PartPlan]:
    """Return a line for each part of the data."""
    return [
        PartPlan(role, part, len(selection.kept), selection.hours, describe_dropped(selection))
        for role, parts in data.roles().items()
        for part, selection in parts.items()
    ]


def plan_record(config: DictConfig, run: Experiment, job: Job) -> dict[str, Any]:
    """Return the plan as plan.json keeps it for the report."""
    return {
        "name": job.name,
        "command": job.command,
        "overrides": job.overrides,
        "device": run.compute.describe(),
        "parameters": count_parameters(run.recognizer.model),
        "total_steps": run.total_steps,
        "parts": [part._asdict() for part in plan_parts(run.data)],
    }


def counted(number: int, noun: str) -> str:
    """Return "1 step" or "1,000 steps"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def plan_facts(config: DictConfig, run: Experiment, directory: Path) -> dict[str, str]:
    """Return what the run is about to do, by name."""
    batch, steps = config.batch, run.steps_per_epoch
    of_what = f"{batch.utterances} random utterances" if batch.utterances else f"{batch.seconds:g} s of like length"
    train = run.data.train.values()
    rate = run.recognizer.features.sample_rate
    selections = [selection for parts in run.data.roles().values() for selection in parts.values()]
    resampled = sum(selection.kept.resampled(rate) for selection in selections)
    facts = {
        "train on": f"{sum(len(s.kept) for s in train):,} utterances, {sum(s.hours for s in train):.2f} hours",
        "model": f"{count_parameters(run.recognizer.model):,} parameters",
        "training": f"{counted(config.epochs, 'epoch')} of {counted(steps, 'step')}: "
        f"{counted(run.total_steps, 'step')} of {of_what}",
        "device": run.compute.describe(),
        "results": os.path.relpath(directory),
        "tracking": f"{config.tracking.uri or 'journal.jsonl alone'}, experiment {config.tracking.experiment}",
    }
    if config.overfit_below is not None:
        facts["overfit"] = f"the first batch alone, until an epoch's loss is below {config.overfit_below:g}"
    if config.init_from:
        there = "" if Path(config.init_from).exists() else " (not there yet)"
        facts["weights from"] = f"{config.init_from}{there}"
    if rejected := rejected_lines(config.data):
        facts["rejected"] = rejected
    if resampled:
        facts["resampled"] = f"{resampled:,} utterances have another sample rate than {rate} Hz; they are resampled"
    return facts


def rejected_lines(data: DictConfig) -> str:
    """Return what prepare could not use of the parts, and where it says why; "" if it could use everything."""
    lists = [Path(data.manifests) / f"{part}.rejected.jsonl" for part in {*data.train, *data.dev, *data.test}]
    found = {path: len(path.read_text().splitlines()) for path in sorted(lists) if path.is_file()}
    return ", ".join(f"{count:,} when indexed, see {path}" for path, count in found.items() if count)
