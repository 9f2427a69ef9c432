"""Print the plan, the progress and the results of a run."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from asr.metrics import ErrorRates

# A file or a pipe has no width, so it gets one at which no table breaks its lines. Markup is off, since most of the
# output is the user's names, paths and commands, in which brackets are brackets.
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False, markup=False, emoji=False)
UI = ".venv/bin/mlflow ui --backend-store-uri"


class PartPlan(NamedTuple):
    """A line of the plan: how much of a part of the data is kept, and what is dropped and why."""

    role: str
    source: str
    utterances: int
    hours: float
    dropped: str


def print_plan(title: str, parts: Sequence[PartPlan], facts: Mapping[str, str]) -> None:
    """Print the data part by part, then everything else that the run is about to do."""
    right = partial(Column, justify="right")
    table = Table("data", "part", right("utterances"), right("hours"), "dropped", box=None, pad_edge=False)
    for part in parts:
        table.add_row(part.role, part.source, f"{part.utterances:,}", f"{part.hours:.2f}", part.dropped)
    print_table(title, table)
    print_facts(facts)


def print_table(title: str, table: Table) -> None:
    """Print a table below its title, which rich's own title would wrap to the table's width."""
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one pair a line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, "dim"), value)
    console.print(grid)


def print_whereabouts(directory: Path, tracking_uri: str | None) -> None:
    """Print where the files of a run are and how to see all runs, unwrapped, so that a command can be copied."""
    console.print(f"Everything is in {os.path.relpath(directory)}", soft_wrap=True)
    if tracking_uri:
        ui = f"open {tracking_uri}" if tracking_uri.startswith("http") else f"{UI} {tracking_uri}"
        console.print(f"Compare runs: {ui}", soft_wrap=True)


def print_demo(checkpoint: Path) -> None:
    """Print the command that transcribes one's own voice with a checkpoint."""
    setting = shlex.quote(f"checkpoint={os.path.relpath(checkpoint)}")
    console.print(f"Try it on your own voice: .venv/bin/python -m asr.demo {setting}", soft_wrap=True)


def progress_bar() -> Progress:
    """Return a bar with the time left and the task's field `figures`; it is silent where there is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar; yields what is called with (action, done, total), where a total of 0 is unknown."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name)
        yield lambda action, done, total: progress.update(
            task, description=f"{action} {name}", completed=done, total=total or None
        )


def print_results(title: str, results: Mapping[str, ErrorRates]) -> None:
    """Print the word and character error rates of each part: of the corpus, and as the mean over utterances."""
    names = ("utterances", "WER", "CER", "sub", "del", "ins", "mean WER", "mean CER", "AUROC", "ECE")
    table = Table("part", *(Column(name, justify="right") for name in names), box=None, pad_edge=False)
    for part, rates in results.items():
        words = rates.words
        counts = [f"{count:,}" for count in (rates.utterances, words.substitutions, words.deletions, words.insertions)]
        wer, *others = [f"{r:.2%}" for r in (words.rate, rates.characters.rate, rates.mean_wer, rates.mean_cer)]
        quality = ["-" if q is None else f"{q:.3f}" for q in (rates.confidence_auroc, rates.confidence_ece)]
        table.add_row(part, counts[0], Text(wer, "bold"), others[0], *counts[1:], *others[1:], *quality)
    print_table(title, table)
    console.print(
        "WER and CER are of the corpus (all edits over all words or characters); the means are over utterances, "
        "as in the writeup. AUROC and ECE are of the words' confidences: 1 and 0 are best.",
        style="dim",
    )
