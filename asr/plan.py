"""What a run is about to do, told before it does it."""

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr.config.build import Session
from asr.config.naming import Job
from asr.console import PartPlan
from asr.corpora.parts import Data
from asr.corpora.selection import drops
from asr.models.deep_speech2 import count_parameters


def plan_parts(data: Data) -> list[PartPlan]:
    """A line for each part of the data."""
    return [
        PartPlan(role, part, len(selection.kept), selection.hours, drops(selection))
        for role, parts in data.roles().items()
        for part, selection in parts.items()
    ]


def plan_record(config: DictConfig, session: Session, job: Job) -> dict[str, Any]:
    """The plan as plan.json keeps it for the report."""
    return {
        "name": job.name,
        "command": job.command,
        "overrides": job.overrides,
        "device": session.compute.describe(),
        "parameters": count_parameters(session.recognizer.model),
        "total_steps": config.epochs * session.steps_per_epoch,
        "parts": [part._asdict() for part in plan_parts(session.data)],
    }


def plan_facts(config: DictConfig, session: Session, directory: Path) -> dict[str, str]:
    """What the run is about to do, by name."""
    batch, steps = config.batch, session.steps_per_epoch
    of_what = f"{batch.utterances} random utterances" if batch.utterances else f"{batch.seconds:g} s of like length"
    train = session.data.train.values()
    rate = session.recognizer.features.sample_rate
    selections = [selection for parts in session.data.roles().values() for selection in parts.values()]
    resampled = sum(cut.sampling_rate != rate for selection in selections for cut in selection.kept)
    facts = {
        "train on": f"{sum(len(s.kept) for s in train):,} utterances, {sum(s.hours for s in train):.2f} hours",
        "model": f"{count_parameters(session.recognizer.model):,} parameters",
        "training": f"{config.epochs} epochs of {steps:,} steps: {config.epochs * steps:,} steps of {of_what}",
        "device": session.compute.describe(),
        "results": os.path.relpath(directory),
        "tracking": f"{config.tracking.uri or 'journal.jsonl alone'}, experiment {config.tracking.experiment}",
    }
    if config.init_from:
        there = "" if Path(config.init_from).exists() else " (not there yet)"
        facts["weights from"] = f"{config.init_from}{there}"
    if rejected := rejected_lines(config.data):
        facts["rejected"] = rejected
    if resampled:
        facts["resampled"] = f"{resampled:,} utterances have another sample rate than {rate} Hz; they are resampled"
    return facts


def rejected_lines(data: DictConfig) -> str:
    """What prepare could not use of the parts, and where it says why; empty if it could use everything."""
    lists = [Path(data.manifests) / f"{part}.rejected.jsonl" for part in {*data.train, *data.dev, *data.test}]
    found = {path: len(path.read_text().splitlines()) for path in sorted(lists) if path.is_file()}
    return ", ".join(f"{count:,} when indexed, see {path}" for path, count in found.items() if count)
