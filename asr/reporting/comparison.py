"""Compare runs that were scored on the same utterances: their error rates, settings, and what changed.

A system is a run of asr.train or asr.evaluate, or several that are equal but for the seed.
"""

import json
import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from asr.artifacts.error_table import read_utterances
from asr.config import naming
from asr.errors import InputError, first_line
from asr.metrics import ErrorCounts, Scored
from asr.reporting.intervals import Interval, Resampling, count_errors, paired_difference, resampled
from asr.settings import differences, flatten, within

NOT_COMPARED = tuple(key for key in naming.NOT_COMPARED if key != "decode")  # here the decoder counts
SEED_KEYS = ("seed", "init_from", "checkpoint")  # in which seeds of one config differ
UTTERANCES = "utterances.jsonl"


@dataclass(frozen=True)
class ScoredRun:
    """A run's settings, empty if it has kept none, and the utterances of each part that it was scored on."""

    path: str
    settings: dict[str, Any]
    parts: dict[str, list[Scored]]


@dataclass(frozen=True)
class System:
    """One run, or the seeds of one config; letter: its name in the tables."""

    letter: str
    runs: list[ScoredRun]

    @property
    def paths(self) -> str:
        """Name the runs."""
        return ", ".join(run.path for run in self.runs)


class Change(NamedTuple):
    """An utterance that two systems' first runs transcribe differently."""

    first: Scored
    other: Scored

    @property
    def difference(self) -> tuple[int, int]:
        """Return by how many errors the other is worse: in words, and in characters."""
        words = _edits(self.other.words) - _edits(self.first.words)
        return words, _edits(self.other.characters) - _edits(self.first.characters)

    @property
    def words(self) -> str:
        """Say how many errors these are."""
        words, characters = map(abs, self.difference)
        count, unit = (words, "word error") if words else (characters, "character error")
        return f"{count} {unit}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Rates:
    """An error rate of both systems, and that of the other minus that of the first."""

    first: Interval
    other: Interval
    difference: Interval


@dataclass(frozen=True)
class Comparison:
    """Another system against the first, on a part.

    rates:         by measure, wer and cer
    resampled:     what the intervals resample, in words; warning: why they are unreliable, or empty
    better, worse: the utterances with fewer or more word errors (of equally many, character errors) by the other
                   system, the largest change first
    same:          how many have as many
    """

    part: str
    first: System
    other: System
    rates: dict[str, Rates]
    resampled: str
    warning: str
    better: list[Change]
    worse: list[Change]
    same: int


def load_run(path: Path) -> ScoredRun:
    """Read what asr.train or asr.evaluate has written to a directory, or one utterances.jsonl.

    raises: InputError if there is none, or the run has not finished
    """
    if path.is_file():
        directory, files = path.parent.parent.parent, {path.parent.name: path}
    elif path.is_dir():
        directory, files = path, {file.parent.name: file for file in sorted(path.glob(f"errors/*/{UTTERANCES}"))}
        if not (path / "results.json").exists():
            raise InputError(
                f"{path} has not finished, or is no directory of asr.train or asr.evaluate: it has no results.json. "
                "Rerun the command of an unfinished run to resume it"
            )
        if not files:
            raise InputError(
                f"{path} has no errors/PART/{UTTERANCES}: an older version scored it. Score it again by "
                f"python -m asr.evaluate checkpoint={path}/best.pt, and compare that"
            )
    else:
        there = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, there, n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "."
        raise InputError(
            f"{path} is not there{hint} A run is a directory that asr.train or asr.evaluate has written, or an "
            f"{UTTERANCES} in it"
        )
    parts = {part: read_utterances(file) for part, file in files.items()}
    if empty := [part for part, scored in parts.items() if not scored]:
        raise InputError(f"{files[empty[0]]} holds no utterance, so there is nothing to compare")
    return ScoredRun(str(path), _settings(directory / "config.json"), parts)


def _settings(path: Path) -> dict[str, Any]:
    """Return the settings of a training; after asr.evaluate, those of the checkpoint with that decoder."""
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text())
        if "trained" in config:
            return {**config["trained"], "decode": config["decode"], "checkpoint": config["checkpoint"]}
        return dict(config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a config that asr.train or asr.evaluate wrote: {first_line(error)}") from error


def group_systems(runs: Sequence[ScoredRun], seeds: bool) -> list[System]:
    """Return a system for each run or, with seeds, for all runs whose settings are equal but for the seed.

    raises: InputError if fewer than two are left, or more than there are letters, or two of a system have one seed
    """
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        settings = {key: value for key, value in flatten(run.settings).items() if not _ignored(key)}
        key = json.dumps(settings, sort_keys=True) if seeds and run.settings else run.path
        groups.setdefault(key, []).append(run)
    if len(groups) > len(string.ascii_uppercase):
        raise InputError(f"runs: {len(groups)} are more than one page can show; compare at most 26 at a time")
    if len(groups) < 2:
        raise InputError(
            f"runs: {', '.join(run.path for run in runs)} are one system, so there is nothing to compare; name two "
            "runs or more that differ in more than their seeds"
        )
    for group in groups.values():
        if len({str(run.settings.get("seed")) for run in group}) < len(group):
            raise InputError(
                f"runs: of {', '.join(run.path for run in group)} two have the same settings and the same seed; name "
                "one of them"
            )
    return [System(string.ascii_uppercase[number], group) for number, group in enumerate(groups.values())]


def _ignored(key: str) -> bool:
    return within(key, (*NOT_COMPARED, *SEED_KEYS))


def shared_parts(runs: Sequence[ScoredRun], parts: Sequence[str] | None) -> list[str]:
    """Return the parts to compare: those that are named or, if none is, those of all runs.

    raises: InputError if a run lacks one, or has other utterances or references in it than the first run
    """
    first = runs[0]
    for run in runs:
        if missing := [part for part in parts or () if part not in run.parts]:
            raise InputError(f"parts: {run.path} was not scored on {missing[0]}, but on {', '.join(run.parts)}")
        if parts is None and run.parts.keys() != first.parts.keys():
            raise InputError(
                f"{run.path} was scored on {', '.join(run.parts)}, but {first.path} on {', '.join(first.parts)}; name "
                "the parts that both have by parts=[PART]"
            )
    chosen = list(first.parts) if parts is None else list(parts)
    for part in chosen:
        for run in runs[1:]:
            _check_same(part, first, run)
    return chosen


def _check_same(part: str, first: ScoredRun, other: ScoredRun) -> None:
    """Raise InputError for the first utterance that only one run has, or that has another reference there."""
    ours, theirs = ({one.id: one.reference for one in run.parts[part]} for run in (first, other))
    for id in sorted(ours.keys() | theirs.keys()):
        if id not in ours or id not in theirs:
            has, lacks = (first, other) if id in ours else (other, first)
            raise InputError(
                f"{first.path} and {other.path} were scored on other utterances of {part}: {id!r} is in {has.path} "
                f"alone. Score both checkpoints on one corpus by asr.evaluate, with the same data= ({lacks.path} has "
                f"{len(lacks.parts[part]):,} utterances, {has.path} {len(has.parts[part]):,})"
            )
        if ours[id] != theirs[id]:
            raise InputError(
                f"{first.path} and {other.path} have other references in {part}: that of {id!r} is {ours[id]!r} in the "
                f"first and {theirs[id]!r} in the second. Score both checkpoints on one corpus by asr.evaluate; models "
                "with different alphabets cannot be compared"
            )


def compare(part: str, first: System, other: System, resampling: Resampling) -> Comparison:
    """Compare two systems on a part."""
    rates = {}
    for measure in ("wer", "cer"):
        one, two = (count_errors([run.parts[part] for run in system.runs], measure) for system in (first, other))
        difference = paired_difference([(two, one)], resampling)
        rates[measure] = Rates(resampled([one], resampling), resampled([two], resampling), difference)
    by_id = {one.id: one for one in other.runs[0].parts[part]}
    changes = [Change(one, by_id[one.id]) for one in first.runs[0].parts[part]]
    better = sorted((c for c in changes if c.difference < (0, 0)), key=lambda c: (c.difference, c.first.id))
    worse = sorted(
        (c for c in changes if c.difference > (0, 0)), key=lambda c: (*(-n for n in c.difference), c.first.id)
    )
    seeds = [f"{len(system.runs)} seeds of {system.letter}" for system in (first, other) if len(system.runs) > 1]
    drawn = two if one.speakers else one  # if either knows no speakers, utterances alone are drawn
    levels = " and ".join([*seeds, drawn.utterance_levels])
    same = len(changes) - len(better) - len(worse)
    return Comparison(part, first, other, rates, levels, drawn.warning, better, worse, same)


def differing_settings(first: System, other: System) -> list[str]:
    """Return the settings in which two systems differ; seeds are left out where there are several of one system."""
    ignore = (*NOT_COMPARED, *(SEED_KEYS if len(first.runs) + len(other.runs) > 2 else ()))
    return differences(first.runs[0].settings, other.runs[0].settings, ignore)


def default_folder(runs: Sequence[str]) -> str:
    """Return the name of a comparison's folder, after the directories of its first and its last run."""
    names = [os.path.basename(os.path.abspath(run)) for run in (runs[-1], runs[0])]
    return f"outputs/comparisons/{names[0][:100]}-against-{names[1][:100]}"


def _edits(counts: ErrorCounts) -> int:
    return counts.substitutions + counts.deletions + counts.insertions
