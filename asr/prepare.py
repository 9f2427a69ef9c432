"""python -m asr.prepare: download or make a corpus, or use one that you have, and write its manifests.

python -m asr.prepare librispeech parts=[train-clean-100,dev-clean]
python -m asr.prepare table file=corpus.csv root=recordings
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from asr.cli import CONF, entry_point, fail_alike
from asr.config.help import print_options
from asr.console import console, download_bar, print_table
from asr.corpora import an4, lhotse, librispeech, table
from asr.corpora.download import Archive
from asr.corpora.index import Found, Index, PartSummary, Rejected
from asr.corpora.pack import pack
from asr.corpora.synthetic.corpus import make_corpus
from asr.errors import InputError
from asr.settings import BELOW_1, GROUP, POSITIVE, SAMPLE_RATES, STRING, STRINGS, SWITCH, Rules, check, one_of, whole

DOWNLOAD: Rules = {"download": SWITCH, "base_url": STRING, "archives": STRING, "keep_archives": SWITCH}
COMMON: Rules = {
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
    check(config, {"importer": one_of(*RULES)})
    if missing := [key for key in ("file", "cuts", "part", "root") if OmegaConf.is_missing(config, key)]:
        raise InputError(f"{' and '.join(missing)} must be given; --help shows every setting, and an example")
    check(config, {**COMMON, **RULES[config.importer]})
    packing = config.importer == "pack"
    for key in ("to",) if packing else ("root", "manifests"):
        if "://" in config[key]:
            raise InputError(f"{key}={config[key]}: it must be a folder of this machine, not a URL; copy it afterwards")
    root, folder, summaries = Path(os.path.abspath(config.root)), Path(config.manifests), []
    if packing:
        folder = Path(config.to) / "manifests"
        with download_bar(config.part) as bar:
            summaries = [pack(config.root, config.manifests, config.part, Path(config.to), config.shard_mb, bar)]
    else:
        index = Index(root, folder, config.jobs or os.cpu_count() or 1, config.verify_audio)
        for part, (found, rejected) in IMPORTERS[config.importer](config, root, index.jobs):
            with download_bar(part) as bar:
                summaries.append(index.write(part, found, rejected, bar))
    _print_summaries(config, folder, summaries)


def find_librispeech(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Yield the parts that are there or can be downloaded."""
    if not config.parts:
        raise InputError("parts=[]: name at least one part, such as parts=[train-clean-100]")
    there = [part for part in config.parts if config.download or (root / part).is_dir()]
    for part in there or config.parts:
        published = librispeech.PARTS.get(part)
        if config.download and published and not (root / librispeech.TOP / part).is_dir():
            _download(config, root, part, published.md5, librispeech.TOP, part)
        yield part, librispeech.find_utterances(root, part)


def find_synthetic(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Make the parts that are not there, and yield all."""
    with download_bar("") as bar:
        make_corpus(root, dict(config.hours), dict(config.speakers), config.seed, jobs, bar)
    for part in config.parts:
        yield part, librispeech.find_utterances(root, part)


def find_an4(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Download AN4 unless it is there, and yield train, dev and test."""
    if config.download:
        _download(config, root, "an4_sphere", config.md5, "an4", "wav")
    yield from an4.find_utterances(root).items()


def find_table(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Yield the parts of a table."""
    _validate_root(root)
    if config.split.dev + config.split.test >= 1:
        raise InputError(
            f"split.dev={config.split.dev} and split.test={config.split.test} leave nothing to train on; their sum "
            "must be below 1"
        )
    yield from table.find_utterances(Path(config.file), root, config.split, config.seed).items()


def find_lhotse(config: DictConfig, root: Path, jobs: int) -> Parts:
    """Yield a CutSet as the part of its file's name."""
    _validate_root(root)
    yield Path(config.cuts).name.split(".")[0], lhotse.find_utterances(Path(config.cuts), root)


IMPORTERS = {
    "librispeech": find_librispeech,
    "synthetic": find_synthetic,
    "an4": find_an4,
    "table": find_table,
    "lhotse": find_lhotse,
}


def _validate_root(root: Path) -> None:
    if not root.is_dir():
        raise InputError(f"root={root} is no folder; set it to the folder that holds the audio")


def _download(config: DictConfig, root: Path, name: str, md5: str | None, top: str, holds: str) -> None:
    """Download and unpack NAME.tar.gz unless root holds the folder `holds`."""
    if (root / holds).is_dir():
        return
    path = Path(config.archives) / f"{name}.tar.gz"
    with download_bar(name) as bar:
        archive = Archive(f"{config.base_url.rstrip('/')}/{path.name}", path, md5, top)
        archive.ensure(root, holds, bar, config.keep_archives)


def _print_summaries(config: DictConfig, manifests: Path, summaries: list[PartSummary]) -> None:
    """Print a row for each part, then what is incomplete, and which characters a model with this alphabet drops."""
    rows = Table("part", box=None)
    for name in ("utterances", "speakers", "hours", "rejected", "resampled"):
        rows.add_column(name, justify="right")
    notes = []
    for one in summaries:
        there = one.utterances
        counts = len(there), one.speakers, one.rejected, there.resampled(config.sample_rate)
        utterances, speakers, rejected, resampled = (f"{n:,}" for n in counts)
        rows.add_row(one.part, utterances, speakers, f"{there.hours:.2f}", rejected, resampled)
        # The synthetic parts have LibriSpeech's names, but not its sizes.
        published = librispeech.PARTS.get(one.part) if config.importer == "librispeech" else None
        if published and len(there) != published.utterances:
            notes.append(f"{one.part} is incomplete: {utterances} of {published.utterances:,} utterances")
        if foreign := ", ".join(f"{character!r} {count:,}" for character, count in one.foreign(config.alphabet)):
            notes.append(f"{one.part} has characters outside the alphabet: {foreign}")
    for part in config.get("parts", []):
        if part not in {one.part for one in summaries}:
            rows.add_row(part, *["-"] * 5)
            notes.append(f"{part} is not there")
    if any(one.rejected for one in summaries):
        notes.append(f"Rejected utterances, with the reasons: {manifests}/PART.rejected.jsonl")
    print_table(f"{config.get('to', config.root)}, manifests in {manifests}", rows)
    for note in notes:
        console.print(note, soft_wrap=True)


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
