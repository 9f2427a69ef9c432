"""python -m asr.prepare: download or make a corpus, or use one that you have, and index it for training.

python -m asr.prepare librispeech parts=[train-clean-100,dev-clean]
python -m asr.prepare synthetic
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from asr.cli import CONF, entry_point, fail_alike
from asr.config.help import print_options
from asr.console import console
from asr.corpora.download import ensure_part
from asr.corpora.manifest import PartSummary, index_part
from asr.corpora.synthetic.corpus import make_corpus
from asr.errors import InputError
from asr.settings import GROUP, STRING, STRINGS, SWITCH, Rules, check, whole

RULES: Rules = {
    "root": STRING,
    "manifests": STRING,
    "parts": STRINGS,
    "jobs": whole(1).or_null,
    "verify_audio": SWITCH,
}
LIBRISPEECH_RULES: Rules = {
    "download": SWITCH,
    "base_url": STRING,
    "archives": STRING,
    "keep_archives": SWITCH,
}
SYNTHETIC_RULES: Rules = {
    "seed": whole(0),
    "hours": GROUP,
    "speakers": GROUP,
}


@entry_point("prepare")
def main(config: DictConfig) -> None:
    """Makes or finds every part, indexes it, and says what is there."""
    check(config, RULES)
    check(config, SYNTHETIC_RULES if "hours" in config else LIBRISPEECH_RULES)
    root, jobs = Path(config.root), config.jobs or os.cpu_count() or 1
    if not config.parts:
        raise InputError("parts=[]: name at least one part, such as parts=[train-clean-100]")
    if "hours" in config:
        with _bar("") as progress:
            make_corpus(root, dict(config.hours), dict(config.speakers), config.seed, jobs, progress)
    summaries, absent = [], []
    for part in config.parts:
        if not (root / part).is_dir():
            if not config.get("download", False):
                absent.append(part)
                continue
            with _bar(part) as progress:
                ensure_part(root, part, config.base_url, Path(config.archives), progress, config.keep_archives)
        with _bar(part) as progress:
            summaries.append(index_part(root, part, Path(config.manifests), jobs, progress, config.verify_audio))
    if not summaries:
        raise InputError(
            f"root={root}: none of the parts {', '.join(absent)} is there; set root to the folder that holds them, "
            "or download=true"
        )
    _report(root, Path(config.manifests), summaries, absent, published="hours" not in config)


@contextmanager
def _bar(part: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar; yields what download and index call with (what, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(part)
        yield lambda what, done, total: progress.update(
            task, description=f"{what} {part}", completed=done, total=total or None
        )


def _report(root: Path, manifests: Path, summaries: list[PartSummary], absent: list[str], published: bool) -> None:
    """A line for each part: what there is of it."""
    table = Table(title=f"{root}, indexed in {manifests}", title_justify="left", title_style="bold", box=None)
    table.add_column("part")
    for name in ("utterances", "speakers", "hours", "rejected", "resampled"):
        table.add_column(name, justify="right")
    table.add_column("")
    for part in summaries:
        counts = (f"{part.utterances:,}", f"{part.speakers:,}", f"{part.hours:.2f}", f"{part.rejected:,}")
        # The synthetic parts have LibriSpeech's names, but not its sizes.
        table.add_row(part.part, *counts, f"{part.resampled:,}", part.completeness if published else "")
    for name in absent:
        table.add_row(name, *["-"] * 5, "not there")
    console.print(table)
    if any(part.rejected for part in summaries):
        console.print(f"Rejected utterances, with the reason: {manifests}/PART.rejected.jsonl")


def command() -> None:
    """Take `prepare librispeech` for `prepare corpus=librispeech`, and list the corpora where none is named."""
    arguments = sys.argv[1:]
    if not arguments:
        print_options(
            "python -m asr.prepare CORPUS gets and indexes one of these; --help shows its settings", "corpus", CONF
        )
        return
    if "=" not in arguments[0] and not arguments[0].startswith("-"):
        sys.argv[1] = f"corpus={arguments[0]}"
    elif not any(
        argument in ("-h", "--help", "--hydra-help") or argument.startswith("corpus=") for argument in arguments
    ):
        fail_alike("no corpus is named: python -m asr.prepare CORPUS ...; without anything else it lists the corpora")
    main()


if __name__ == "__main__":
    command()
