"""The manifest of a part: a Parquet table with a row for each utterance, of which only batches become objects."""

import builtins
import json
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from asr.errors import InputError, first_line
from asr.files import written_whole
from asr.settings import SAMPLE_RATES

FORMAT = 3  # of a manifest; one of another format must be made anew by asr.prepare
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("speaker", pa.string()),  # null: unknown
        ("text", pa.string()),
        ("path", pa.string()),  # relative to the root
        ("num_samples", pa.int64()),
        ("sample_rate", pa.int32()),
        ("offset", pa.int64()),  # where the bytes of the audio begin in a packed file; null: the file is the audio
        ("bytes", pa.int64()),
    ]
)
ROWS = 10_000  # of a group: texts become Python strings a group at a time
NULLABLE = ("speaker", "offset", "bytes")
CUT_SETS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".yaml", ".yaml.gz")  # suffixes of lhotse's files
QUICKSTART = ". To try it without a corpus: bash scripts/quickstart.sh makes a small one and trains on it in 12 minutes"


@dataclass(frozen=True, slots=True)
class Utterance:
    """An utterance: a row of a manifest.

    root, path: the audio is root/path, which may be a URL; of a packed file it is `bytes` from `offset` on
    speed:      at which training plays it in this epoch
    """

    id: str
    text: str
    path: str
    num_samples: int
    sample_rate: int
    speaker: str | None = None
    offset: int | None = None
    bytes: int | None = None
    root: str = ""
    speed: float = 1.0

    @property
    def seconds(self) -> float:
        """Return the duration at its original speed."""
        return self.num_samples / self.sample_rate

    @property
    def location(self) -> str:
        """Return the path of the audio, for messages."""
        return posixpath.join(self.root, self.path)

    def read_bytes(self) -> builtins.bytes:
        """Return the content of the audio file."""
        file_system, root = url_to_fs(self.root)
        start = self.offset
        end = None if start is None else start + (self.bytes or 0)
        return file_system.cat_file(posixpath.join(root, self.path), start, end)


@dataclass(frozen=True)
class Utterances:
    """Utterances as the columns of a table, all below one root."""

    table: pa.Table
    root: str = ""

    @classmethod
    def of(cls, utterances: Sequence[Utterance], root: str = "") -> "Utterances":
        """Make the table of a list of utterances."""
        rows = [{name: getattr(one, name) for name in SCHEMA.names} for one in utterances]
        return cls(pa.Table.from_pylist(rows, SCHEMA), root)

    @classmethod
    def joined(cls, parts: Sequence["Utterances"]) -> "Utterances":
        """Return the utterances of all parts, which have one root."""
        return cls(pa.concat_tables([part.table for part in parts]), parts[0].root)

    def __len__(self) -> int:
        return self.table.num_rows

    def __iter__(self) -> Iterator[Utterance]:
        for batch in self.table.to_batches(100):
            for row in batch.to_pylist():
                yield Utterance(**row, root=self.root)

    @cached_property
    def seconds(self) -> np.ndarray:
        """Return the duration of each utterance."""
        return self.table["num_samples"].to_numpy() / self.table["sample_rate"].to_numpy()

    @property
    def hours(self) -> float:
        return float(self.seconds.sum()) / 3600

    def digest(self) -> str:
        """Return a digest of the ids, texts, paths and lengths, in their order."""
        digest = blake2b(digest_size=8)
        for batch in self.table.select(["id", "text", "path", "num_samples", "sample_rate"]).to_batches():
            digest.update(batch.serialize())
        return digest.hexdigest()

    def resampled(self, sample_rate: int) -> int:
        """Return how many have another sample rate."""
        return len(self) - int((self.table["sample_rate"].to_numpy() == sample_rate).sum())

    def filter(self, mask: np.ndarray) -> "Utterances":
        """Return the utterances where the mask is true."""
        return self if mask.all() else Utterances(self.table.filter(pa.array(mask)), self.root)

    def first(self, number: int | None) -> "Utterances":
        """Return the first utterances; None: all."""
        return Utterances(self.table.slice(0, number), self.root)

    def rows(self, numbers: np.ndarray, speeds: np.ndarray | None = None) -> list[Utterance]:
        """Return some rows as objects. speeds: of every row of the table."""
        chunks, ends = self._chunks
        found = []
        for number in numbers.tolist():  # pyarrow's take copies all chunks first
            chunk = int(np.searchsorted(ends, number, side="right"))
            (row,) = chunks[chunk].slice(number - int(ends[chunk]) + len(chunks[chunk]), 1).to_pylist()
            found.append(Utterance(**row, root=self.root, speed=1.0 if speeds is None else float(speeds[number])))
        return found

    @cached_property
    def _chunks(self) -> tuple[list[pa.RecordBatch], np.ndarray]:
        chunks = self.table.to_batches()
        return chunks, np.cumsum([len(chunk) for chunk in chunks])


def write_manifest(folder: Path, part: str, utterances: Sequence[Utterance], made_of: Mapping[str, Any]) -> None:
    """Write folder/PART.parquet, whole or not at all; made_of is kept in it, for read_made_of."""
    table = Utterances.of(utterances).table
    notes = {"asr": json.dumps({"format": FORMAT, **made_of})}
    with written_whole(folder / f"{part}.parquet") as file:
        pq.write_table(
            table.replace_schema_metadata(notes),
            file,
            compression="zstd",
            row_group_size=ROWS,
            write_page_checksum=True,
        )


def read_made_of(source: Any) -> dict[str, Any]:
    """Return what was noted in a manifest; an empty dict if the file is missing, damaged or something else."""
    try:
        made_of = json.loads((pq.read_schema(source).metadata or {})[b"asr"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return {}
    return made_of if isinstance(made_of, dict) else {}


def read_manifest(root: str, manifests: str, part: str) -> Utterances:
    """Read and check the manifest of a part; root and manifests are folders or URLs that fsspec knows.

    raises: InputError that says how to make or mend the manifest, or names the first audio file that is missing
    """
    if part.endswith(CUT_SETS):
        raise InputError(
            f"{part} is no part; if it is a lhotse CutSet, import it: python -m asr.prepare lhotse cuts={part} "
            f"root={root}; then name the part that this makes"
        )
    (files, folder), (audio, base) = _file_system(manifests, "manifests"), _file_system(root, "root")
    path = f"{folder}/{part}.parquet"
    if not files.exists(path):
        known = sorted(posixpath.basename(one).removesuffix(".parquet") for one in files.glob(f"{folder}/*.parquet"))
        old = files.exists(f"{folder}/{part}.jsonl.gz") or audio.exists(f"{base}/cuts/{part}.jsonl.gz")
        raise InputError(
            f"part {part!r} has no manifest {manifests}/{part}.parquet ({'only one of an older format' if old else ''}"
            f"{'' if old else 'there are: ' + (', '.join(known) or 'none')}); "
            f"make it: {prepare_command(root, manifests, part)}{'' if audio.exists(base) else QUICKSTART}"
        )
    if not audio.exists(base):
        raise InputError(f"root={root} does not exist; set it to the folder that holds {part}")
    anew = f"make it anew: {prepare_command(root, manifests, part)}"
    try:
        with files.open(path, "rb") as file:
            made_of = read_made_of(file)
            if made_of.get("format") != FORMAT:
                raise InputError(f"{manifests}/{part}.parquet is damaged or of another version of asr.prepare; {anew}")
            content = pq.ParquetFile(file, page_checksum_verification=True)
            groups = content.iter_batches(ROWS, use_threads=False)  # threads take 60 MB more
            table = pa.Table.from_batches(groups, content.schema_arrow).replace_schema_metadata()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{manifests}/{part}.parquet cannot be read: {first_line(error)}; {anew}") from error
    utterances = Utterances(table, root)
    if problem := _problem(utterances):
        raise InputError(f"{manifests}/{part}.parquet {problem}; {anew}")
    if missing := _missing(utterances, audio, base):
        raise InputError(
            f"{manifests}/{part}.parquet names {len(missing):,} audio files that are missing or too short, the first "
            f"{root}/{missing[0]}; put them back, or {anew}"
        )
    return utterances


def prepare_command(root: str, manifests: str, part: str) -> str:
    """Return the command that makes the manifest of a part of a corpus, which is recognised by its folder."""
    folder, parts, hint = Path(root), f" parts=[{part}]", ""
    if folder.name == "synthetic" or any(folder.glob("*/synthetic.json")):  # written by its generator
        corpus = "synthetic"
    elif any(folder.glob("*.pack")):
        return (
            f"python -m asr.prepare pack part={part} root=ROOT to={root}, where ROOT holds the files that were packed"
        )
    elif folder.name == "an4" or (folder / "etc/an4_train.fileids").exists():
        corpus, parts = "an4", ""
    elif part in ("train-clean-5", "dev-clean-2"):
        corpus = "mini_librispeech"
    elif (folder / part).is_dir() or folder.name in ("LibriSpeech", "mini_LibriSpeech"):
        corpus = "librispeech"
    else:
        corpus, hint = "CORPUS", "; python -m asr.prepare lists the corpora, of which table takes any recordings"
    elsewhere = "" if manifests == f"{root}/manifests" else f" manifests={manifests}"
    return f"python -m asr.prepare {corpus} root={root}{parts}{elsewhere}{hint}"


def _file_system(url: str, setting: str) -> tuple[AbstractFileSystem, str]:
    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:  # no such protocol, or its package is not installed
        raise InputError(f"{setting}={url}: {first_line(error)}; give a folder or a URL that fsspec opens") from error


def _problem(utterances: Utterances) -> str:
    """Return what is wrong with the table; an empty string if it can be used."""
    table = utterances.table
    if table.schema != SCHEMA:
        return f"has the columns {', '.join(table.schema.names)}, must have {', '.join(SCHEMA.names)} of certain types"
    if not len(table):
        return "holds no utterance"
    for name in SCHEMA.names:
        if name not in NULLABLE and table[name].null_count:
            return f"has a row without {name}"
    rates, low, high = table["sample_rate"], SAMPLE_RATES[0], SAMPLE_RATES[-1]
    rules = {
        f"a sample rate that is not from {low:,} to {high:,} Hz": pc.or_(pc.less(rates, low), pc.greater(rates, high)),
        "no samples": pc.less(table["num_samples"], 1),
        "a path outside the root": pc.match_substring_regex(table["path"], r"^[/\\]|(^|[/\\])\.\.([/\\]|$)|\x00"),
        "an offset without bytes, or bytes without offset": pc.xor(table["offset"].is_null(), table["bytes"].is_null()),
        "an offset or a number of bytes below 0": pc.or_(pc.less(table["offset"], 0), pc.less(table["bytes"], 1)),
    }
    for problem, broken in rules.items():
        if (row := pc.index(broken, True).as_py()) >= 0:
            return f"has an utterance, {table['id'][row].as_py()}, with {problem}"
    if len(pc.unique(table["id"])) < len(table):
        counts = pc.value_counts(table["id"].combine_chunks())
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))
        return f"has {len(repeated)} ids more than once, the first {repeated[0]['values'].as_py()}"
    return ""


def _names(file_system: AbstractFileSystem, folder: str) -> set[str]:
    if isinstance(file_system, LocalFileSystem):
        return set(os.listdir(folder))  # its ls takes seven times as long
    return {posixpath.basename(one) for one in file_system.ls(folder, detail=False)}


def _missing(utterances: Utterances, file_system: AbstractFileSystem, base: str) -> list[str]:
    """Return the files that are not there, or end before the last utterance packed in them.

    Folders are listed, which is far quicker than to look for each file.
    """
    table = utterances.table
    packed = table.filter(table["bytes"].is_valid())
    ends = packed.append_column("end", pc.add(packed["offset"], packed["bytes"])).group_by("path")
    missing = [
        one["path"]
        for one in ends.aggregate([("end", "max")]).to_pylist()
        if not file_system.exists(f"{base}/{one['path']}") or file_system.size(f"{base}/{one['path']}") < one["end_max"]
    ]
    names: dict[str, list[str]] = defaultdict(list)
    for path in table.filter(table["bytes"].is_null())["path"].to_pylist():
        folder, _, name = path.rpartition("/")
        names[folder].append(name)
    for folder, wanted in names.items():
        try:
            there = _names(file_system, posixpath.join(base, folder))
        except (FileNotFoundError, NotADirectoryError):
            there = set()
        except OSError as error:
            raise InputError(
                f"{base}/{folder} cannot be read: {first_line(error)}; give yourself the right to"
            ) from error
        missing += [posixpath.join(folder, name) for name in wanted if name not in there]
    return sorted(missing)
