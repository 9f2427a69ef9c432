"""Load cuts from an index or any lhotse CutSet, and check them."""

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from asr.corpora.download import MINI_LIBRISPEECH
from asr.corpora.utterance import INDEX_VERSION, IndexedCut, manifest_path, rate_problem, read_stamp
from asr.errors import InputError, first_line

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".yaml", ".yaml.gz")  # of lhotse's cut sets
TOLERANCE_SECONDS = 0.025  # by which a cut may pass the end of its recording; lhotse's own value


QUICKSTART = ". To try it without a corpus: bash scripts/quickstart.sh makes a small one and trains on it in 12 minutes"


def load_cuts(source: str, root: Path, manifest_dir: Path) -> CutSet:
    """Load all cuts of a part or a file into memory: each is mono and has one supervision with a text, and its audio.

    The cuts of an index are IndexedCuts, which can be used as MonoCuts.

    source: an indexed part (manifest_dir/PART.jsonl.gz), or a file with a lhotse CutSet; a cut with several
            supervisions is split into one for each
    root:   the folder that holds the parts; paths in an index are relative to it
    raises: InputError that names the first cut or file at fault, and how many there are
    """
    is_file = source.endswith(SUFFIXES)
    if is_file:
        path = Path(source)
        if not path.is_file():
            raise InputError(f"{source}: there is no such file; give the path of a lhotse CutSet or the name of a part")
        cuts = _read(path, "write it anew with CutSet.to_file")
    else:
        path = manifest_path(manifest_dir, source)
        known = sorted(found.name.removesuffix(".jsonl.gz") for found in manifest_dir.glob("*.jsonl.gz"))
        if not path.is_file():
            raise InputError(
                f"part {source!r} has no index {path} (indexed there: {', '.join(known) or 'nothing'}); "
                f"make it: {prepare_command(root, manifest_dir, [source])}{'' if root.is_dir() else QUICKSTART}"
            )
        prepare = prepare_command(root, manifest_dir, known)
        if not root.is_dir():
            raise InputError(f"root={root} does not exist; set it to the folder that holds {source}")
        if read_stamp(manifest_dir, source).get("version") != INDEX_VERSION:
            raise InputError(f"{path} was not made by this version of asr.prepare; make it anew: {prepare}")
        cuts = _read(path, f"make it anew: {prepare}", os.path.join(os.path.abspath(root), ""))
    cuts = _one_supervision_each(cuts, path)
    _validate_ids(cuts, path)
    _validate_audio_files(cuts, path)
    return CutSet.from_cuts(cuts)


def prepare_command(root: Path, manifest_dir: Path, parts: list[str]) -> str:
    """Return the command that indexes parts of a corpus, which is recognised by its folder."""
    corpus, hint = "CORPUS", " (CORPUS is librispeech, mini_librispeech or synthetic)"
    if root.name == "synthetic" or any(root.glob("*/synthetic.json")):  # written by its generator
        corpus = "synthetic"
    elif set(parts) <= MINI_LIBRISPEECH.keys():
        corpus = "mini_librispeech"
    elif root.is_dir() or root.name == "LibriSpeech":
        corpus = "librispeech"
    elsewhere = "" if manifest_dir == root / "cuts" else f" manifests={manifest_dir}"
    command = f"python -m asr.prepare {corpus} root={root} parts=[{','.join(parts)}]{elsewhere}"
    return command + (hint if corpus == "CORPUS" else "")


def _read(path: Path, way_out: str, prefix: str = "") -> list[Cut]:
    """Read the cuts of a file. prefix: is put before the paths of audio files in lines of JSON."""
    cuts: list[Cut] = []
    try:
        cuts.extend(_lines(path, prefix) if ".jsonl" in path.suffixes else CutSet.from_file(path))
    except Exception as error:  # lhotse, json, yaml and gzip raise anything
        beyond = f" beyond its cut {len(cuts):,}" if cuts else ""
        raise InputError(f"{path} cannot be read as a lhotse CutSet{beyond}: {first_line(error)}; {way_out}") from error
    if not cuts or not isinstance(cuts[0], Cut | IndexedCut):
        what = f"items of type {type(cuts[0]).__name__}" if cuts else "nothing"
        raise InputError(f"{path} holds {what}, must hold cuts; {way_out}")
    return cuts


def _lines(path: Path, prefix: str) -> Iterator[Cut]:
    """Yield the cuts of lines of JSON. Those of an index are read without lhotse, in a sixth of the time."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if (cut := IndexedCut.read(line, prefix)) is None:
                cut = deserialize_item(json.loads(line))
                if prefix:
                    for source in cut.recording.sources:
                        source.source = prefix + source.source
            yield cut


def _one_supervision_each(cuts: list[Cut], path: Path) -> list[Cut]:
    """Split cuts with several supervisions; InputError if any cut cannot be used."""
    single: list[Cut] = []
    problems = []
    for cut in cuts:
        if isinstance(cut, IndexedCut):
            single.append(cut)
            continue
        try:
            problem = _problem(cut)
            pieces = [cut]
            if not problem and len(cut.supervisions) > 1:
                pieces = list(cut.trim_to_supervisions(keep_overlapping=False))
                problem = next((found for piece in pieces if (found := _problem(piece))), "")
        except Exception as error:  # lhotse reads fields of any type, and fails later
            problem = f"has a field that cannot be ({first_line(error)}); write it anew with lhotse"
        if problem:
            problems.append(f"cut {getattr(cut, 'id', '(no id)')} {problem}")
        else:
            single.extend(pieces)
    if problems:
        more = f" ({len(problems) - 1:,} more of {len(cuts):,} cuts cannot be used)" if len(problems) > 1 else ""
        raise InputError(f"{path}: {problems[0]}{more}")
    return single


def _problem(cut: Cut) -> str:
    """Return why a cut cannot be used, and the way out; an empty string if it can."""
    if not isinstance(cut, MonoCut):
        return f"is a {type(cut).__name__}, must be a MonoCut of one channel; mix it down or give each channel a cut"
    if not isinstance(cut.id, str):
        return "has an id that is no text; write it in quotes"
    if cut.recording is None or not cut.recording.sources:
        return "has no recording; write the cuts with their recordings"
    if problem := rate_problem(cut.recording.sampling_rate):
        return f"has {problem}; write its recording anew with lhotse or filter it out"
    if cut.channel not in cut.recording.channel_ids:
        return f"is of channel {cut.channel}, its recording has {cut.recording.channel_ids}; give it one of them"
    paths = [source.source for source in cut.recording.sources if source.type == "file"]
    if not all(isinstance(path, str) and "\0" not in path for path in paths):
        return f"has {paths} for paths of audio files; write its recording anew with lhotse"
    if not cut.supervisions:
        return "has no supervision; give it a transcript or filter it out"
    if not all(isinstance(supervision.text, str) for supervision in cut.supervisions):
        return "has a supervision without a text; give it a transcript or filter it out"
    if not (cut.start >= 0 and cut.duration > 0 and cut.duration * cut.sampling_rate >= 1):  # false for NaN
        return f"starts at {cut.start} s and lasts {cut.duration} s: it must hold a sample; mend it or filter it out"
    end, length = cut.start + cut.duration, cut.recording.num_samples / cut.recording.sampling_rate
    if not end <= length + TOLERANCE_SECONDS:
        return f"ends at {end:.3f} s, past the end of its recording of {length:.3f} s; shorten it or filter it out"
    return ""


def _validate_ids(cuts: list[Cut], path: Path) -> None:
    seen: set[str] = set()
    repeated = []
    for cut in cuts:
        if cut.id in seen:
            repeated.append(cut.id)
        seen.add(cut.id)
    if repeated:
        more = f" ({len(repeated) - 1:,} more repeat an id)" if len(repeated) > 1 else ""
        raise InputError(
            f"{path}: the id {repeated[0]} stands more than once{more}; ids tell utterances apart, so give each its own"
        )


def _audio_files(cut: Cut) -> list[str]:
    if isinstance(cut, IndexedCut):
        return [cut.path]
    return [source.source for source in cut.recording.sources if source.type == "file"]


def _validate_audio_files(cuts: list[Cut], path: Path) -> None:
    """Raise InputError if an audio file is missing. Folders are listed once, which is far quicker than to try files."""
    names: dict[str, set[str]] = defaultdict(set)
    for cut in cuts:
        for audio in _audio_files(cut):
            folder, slash, name = audio.rpartition("/")
            names[folder + slash].add(name)
    missing = []
    for folder in sorted(names):
        try:
            there = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        except OSError as error:
            raise InputError(
                f"{path} names audio in {folder}, which cannot be read: {error.strerror}; give yourself the right to"
            ) from error
        missing += [folder + name for name in sorted(names[folder] - there)]
    if missing:
        where = "" if os.path.isabs(missing[0]) else " in the working directory"
        raise InputError(
            f"{path} names {len(missing):,} audio files that are not there, the first {missing[0]}{where}; "
            "put them back, or make the cuts anew without them (an index: python -m asr.prepare)"
        )
