"""python -m asr.prepare: download or make a corpus, or use one that you have, and write its manifests.

python -m asr.prepare librispeech parts=[train-clean-100,dev-clean]
python -m asr.prepare table file=corpus.csv root=recordings
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from asr.cli import CONF, entry_point, fail_alike
from asr.config.help import print_options
from asr.console import console
from asr.corpora import an4, lhotse, librispeech, table
from asr.corpora.download import Archive
from asr.corpora.index import Found, Index, PartSummary, Rejected
from asr.corpora.index import Progress as Report
from asr.corpora.pack import pack
from asr.corpora.synthetic.corpus import make_corpus
from asr.errors import InputError
from asr.settings import BELOW_1, GROUP, POSITIVE, SAMPLE_RATES, STRING, STRINGS, SWITCH, Rules, check, one_of, whole

DOWNLOAD: Rules = {"download": SWITCH, "base_url": STRING, "archives": STRING, "keep_archives": SWITCH}
COMMON: Rules = {
    "importer": one_of("librispeech", "synthetic", "an4", "table", "lhotse", "pack"),
    "root": STRING,
    "manifests": STRING,
    "jobs": whole(1).or_null,
    "verify_audio": SWITCH,
    "alphabet": STRING,
    "sample_rate": whole(SAMPLE_RATES[0], SAMPLE_RATES[-1]),
}
RULES: dict[str, Rules] = {
    "librispeech": {"parts": STRINGS, **DOWNLOAD},
    "synthetic": {"parts": STRINGS, "seed": whole(0), "hours": GROUP, "speakers": GROUP},
    "an4": {"md5": STRING.or_null, **DOWNLOAD},
    "table": {"file": STRING, "seed": whole(0), "split": GROUP, "split.dev": BELOW_1, "split.test": BELOW_1},
    "lhotse": {"cuts": STRING},
    "pack": {"part": STRING, "to": STRING, "shard_mb": POSITIVE},
}
Parts = Iterator[tuple[str, tuple[list[Found], list[Rejected]]]]


@entry_point("prepare")
def main(config: DictConfig) -> None:
    """Find the utterances of every part, write the manifests, and print what they hold."""
    check(config, COMMON)
    check(config, RULES[config.importer])
    if missing := OmegaConf.missing_keys(config):
        raise InputError(f"{', '.join(sorted(missing))} must be given; python -m asr.prepare --help shows each setting")
    root, summaries = Path(os.path.abspath(config.root)), []
    index = Index(root, Path(config.manifests), config.jobs or os.cpu_count() or 1, config.verify_audio)
    if config.importer == "pack":
        with _bar(config.part) as bar:
            summaries = [pack(config.root, config.manifests, config.part, Path(config.to), config.shard_mb, bar)]
    else:
        for part, (found, rejected) in IMPORTERS[config.importer](config, root, index.jobs):
            with _bar(part) as bar:
                summaries.append(index.write(part, found, rejected, bar))
    folder = Path(config.to) / "manifests" if config.importer == "pack" else index.manifests
    _print_summaries(config, folder, summaries)


def find_librispeech(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Yield the parts that are there or can be downloaded."""
    if not config.parts:
        raise InputError("parts=[]: name at least one part, such as parts=[train-clean-100]")
    there = [part for part in config.parts if config.download or (root / part).is_dir()]
    if not there:
        raise InputError(
            f"root={root}: none of the parts {', '.join(config.parts)} is there; set root to the folder that holds "
            "them, or download=true"
        )
    for part in there:
        if not (root / part).is_dir():
            if (root / librispeech.TOP / part).is_dir():
                raise InputError(f"root={root}: {part} lies in {root / librispeech.TOP}; set root to that folder")
            if (published := librispeech.PARTS.get(part)) is None:
                raise InputError(
                    f"part {part!r} is not in {root} and cannot be downloaded; the parts that can are "
                    f"{', '.join(librispeech.PARTS)}; name one of them or put your own tree at {root / part}"
                )
            _download(config, root, part, published.md5, librispeech.TOP)
        yield part, librispeech.find_utterances(root, part)


def find_synthetic(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Make the parts that are not there, and yield all."""
    with _bar("") as bar:
        make_corpus(root, dict(config.hours), dict(config.speakers), config.seed, jobs, bar)
    for part in config.parts:
        yield part, librispeech.find_utterances(root, part)


def find_an4(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Download AN4 unless it is there, and yield train, dev and test."""
    if config.download and not (root / "etc").exists():
        _download(config, root, "an4_sphere", config.md5, "an4", holds="etc")
    yield from an4.find_utterances(root).items()


def find_table(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Yield the parts of a table."""
    yield from table.find_utterances(Path(config.file), root, config.split, config.seed).items()


def find_lhotse(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Yield a CutSet as the part of its file's name."""
    yield Path(config.cuts).name.split(".")[0], lhotse.find_utterances(Path(config.cuts), root)


IMPORTERS = {
    "librispeech": find_librispeech,
    "synthetic": find_synthetic,
    "an4": find_an4,
    "table": find_table,
    "lhotse": find_lhotse,
}


def _download(config: DictConfig, root: Path, name: str, md5: str | None, top: str, holds: str = "") -> None:
    path = Path(config.archives) / f"{name}.tar.gz"
    archive = Archive(f"{config.base_url.rstrip('/')}/{path.name}", path, md5, top)
    with _bar(name) as bar:
        archive.ensure(root, holds or name, bar, config.keep_archives)


@contextmanager
def _bar(part: str) -> Iterator[Report]:
    """Show a progress bar; yields what is called with (action, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(escape(part))
        yield lambda action, done, total: progress.update(
            task, description=escape(f"{action} {part}"), completed=done, total=total or None
        )


def _print_summaries(config: DictConfig, manifests: Path, summaries: list[PartSummary]) -> None:
    """Print a row for each part, and the commonest characters that a recogniser with this alphabet drops."""
    rows = Table(title=f"{config.root}, manifests in {manifests}", title_justify="left", title_style="bold", box=None)
    rows.add_column("part")
    for name in ("utterances", "speakers", "hours", "rejected", "resampled"):
        rows.add_column(name, justify="right")
    rows.add_column("outside the alphabet")
    rows.add_column("")
    for one in summaries:
        there = one.utterances
        counts = len(there), one.speakers, f"{there.hours:.2f}", one.rejected, there.resampled(config.sample_rate)
        foreign = "  ".join(f"{character!r} {count:,}" for character, count in one.foreign(config.alphabet))
        # The synthetic parts have LibriSpeech's names, but not its sizes.
        published = librispeech.PARTS.get(one.part) if config.importer == "librispeech" else None
        complete = "" if published is None else "complete"
        if published and len(there) != published.utterances:
            complete = f"incomplete: {len(there):,} of {published.utterances:,} utterances"
        rows.add_row(one.part, *(f"{n:,}" if isinstance(n, int) else n for n in counts), escape(foreign), complete)
    for part in config.get("parts", []):
        if part not in {one.part for one in summaries}:
            rows.add_row(part, *["-"] * 6, "not there")
    console.print(rows)
    if any(one.rejected for one in summaries):
        console.print(f"Rejected utterances, with the reason: {manifests}/PART.rejected.jsonl")


def command() -> None:
    """Take `prepare librispeech` for `prepare corpus=librispeech`, and list the corpora where none is named."""
    arguments = sys.argv[1:]
    if not arguments:
        print_options(
            "python -m asr.prepare CORPUS gets one of these and writes its manifests; --help shows the settings",
            "corpus",
            CONF,
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
