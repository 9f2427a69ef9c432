"""Every kind of bad data is found at its place, named with its reason, and loses no good utterance.

What the user is told stands in the tables of docs/bad_data.md: each row is a case here, and its message the one that
the code must give.
"""

import json
import re
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from audiomentations import AddGaussianNoise
from conftest import ROOT

from asr import prepare
from asr.corpora.audio_files import hides_samples
from asr.corpora.manifest import SCHEMA, Utterance, Utterances, read_manifest, write_manifest
from asr.data.augment import Augment
from asr.data.batches import EpochBatches, Position
from asr.data.dataset import UtteranceDataset
from asr.data.features import LogMel
from asr.data.loader import evaluation_batches, training_batches
from asr.data.selection import describe_dropped, select
from asr.data.text import Alphabet
from asr.errors import InputError

DOCUMENT = ROOT / "docs" / "bad_data.md"
RATE = 16_000
LETTERS = Alphabet(" abcdefghijklmnopqrstuvwxyz")


Make = Callable[..., object]


def messages(heading: str) -> dict[str, str]:
    """What the user is told by what is bad, as the table under a heading of the document says."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", section, re.MULTILINE))


def as_documented(message: str, folder: Path) -> str:
    """Without the test's folder, and without the words of libsndfile, which its versions change."""
    words = r"(unreadable or cut off \()[^;]*?(?=\)?$)"
    return re.sub(words, r"\1[libsndfile's words]", message.replace(f"{folder}/", ""))


def noise(seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * RATE), channels)).astype(np.float32)


def cut_off(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    path.write_bytes(content)


def declare(path: Path, rate: int = RATE, samples: int | None = None) -> None:
    """Writes another sample rate or number of samples into the header of a FLAC file."""
    content = bytearray(path.read_bytes())
    fields = int.from_bytes(content[18:26], "big") & ((1 << 44) - 1)  # less the rate, the first of these 64 bits
    if samples is not None:
        fields = fields >> 36 << 36 | samples
    content[18:26] = (rate << 44 | fields).to_bytes(8, "big")
    path.write_bytes(content)


def write_wave(path: Path, samples: np.ndarray) -> None:
    """As 32-bit floats, which FLAC cannot hold, whatever the file's name says: the readers look at its content."""
    soundfile.write(path, samples, RATE, format="WAV", subtype="FLOAT")


def with_one(value: float) -> np.ndarray:
    samples = noise()
    samples[100] = value
    return samples


def rewrite(folder: Path, old: str, new: str) -> None:
    transcript = next(folder.glob("*.trans.txt"))
    content = transcript.read_bytes().decode().replace(old, new)
    transcript.write_bytes(content.encode("latin-1"))


def copy_chapter(folder: Path, path: Path) -> None:
    copy = folder.parent / "copy"
    copy.mkdir()
    soundfile.write(copy / path.name, noise(), RATE)
    (copy / "copy.trans.txt").write_text(f"{path.stem} AGAIN\n")


# what -> make(folder, path): spoils the second utterance, of the file `path`, of a chapter of two
IN_A_TREE: dict[str, Make] = {
    "FLAC file cut off": lambda folder, path: cut_off(path),
    "FLAC file damaged before its end": lambda folder, path: damage(path),
    "file that is no audio": lambda folder, path: path.write_bytes(b"no audio"),
    "FLAC header with too few samples": lambda folder, path: declare(path, samples=8_000),
    "sample rate of 1 Hz": lambda folder, path: declare(path, rate=1),
    "no samples": lambda folder, path: write_wave(path, noise(0)),
    "NaN": lambda folder, path: write_wave(path, with_one(np.nan)),
    "infinite sample": lambda folder, path: write_wave(path, with_one(np.inf)),
    "silence": lambda folder, path: write_wave(path, noise() * 0),
    "stereo": lambda folder, path: soundfile.write(path, noise(channels=2), RATE),
    "empty transcript": lambda folder, path: rewrite(folder, " WORLD", ""),
    "no transcript": lambda folder, path: rewrite(folder, f"{path.stem} WORLD\n", ""),
    "transcript that is not UTF-8": lambda folder, path: rewrite(folder, "WORLD", "ÉTÉ"),
    "no audio file": lambda folder, path: path.unlink(),
    "line without an id": lambda folder, path: rewrite(folder, "WORLD\n", "WORLD\nMORE WORDS\n"),
    "id twice in a chapter": lambda folder, path: rewrite(folder, "WORLD\n", f"WORLD\n{path.stem} AGAIN\n"),
    "id twice in a part": copy_chapter,
}
ADDED = ("line without an id", "id twice in a chapter", "id twice in a part")  # to two utterances, which stay good


class Report(NamedTuple):
    """What one call of prepare left: the reasons by the case they belong to, the kept ids, and what was printed."""

    reasons: dict[str, list[str]]
    kept: list[str]
    printed: str


def write_chapter(root: Path, part: str, speaker: int) -> Path:
    folder = root / part / str(speaker) / "1"
    folder.mkdir(parents=True)
    for number in range(2):
        soundfile.write(folder / f"{speaker}-1-000{number}.flac", noise(), RATE)
    (folder / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 HELLO\n{speaker}-1-0001 WORLD\n")
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of two parts: dev-other is good, but for a wrong sample rate; dev-clean has a chapter for each case."""
    root = tmp_path_factory.mktemp("bad")
    soundfile.write(write_chapter(root, "dev-other", 1) / "1-1-0001.flac", noise(), 8_000)
    for number, make in enumerate(IN_A_TREE.values()):
        folder = write_chapter(root, "dev-clean", 100 + number)
        make(folder, folder / f"{100 + number}-1-0001.flac")
    with pytest.MonkeyPatch.context() as patch, prepare.console.capture() as printed:
        patch.setattr(sys, "argv", ["prepare", "librispeech", "parts=[dev-clean,dev-other]", f"root={root}", "jobs=2"])
        prepare.command()
    reasons: dict[str, list[str]] = {}
    for line in (root / "manifests/dev-clean.rejected.jsonl").read_text().splitlines():
        record = json.loads(line)
        _, speaker, *_ = Path(record["path"]).parts
        reason = re.sub(r"dev-clean/\S+\.flac already", "PATH already", record["reason"]).replace(
            f"{speaker}-1-0001", "ID"
        )
        reason = as_documented(reason.replace(f"{speaker}-1-", "SPEAKER-CHAPTER-"), root)
        reasons.setdefault(list(IN_A_TREE)[int(speaker) - 100], []).append(reason)
    kept = [one.id for one in read_manifest(str(root), f"{root}/manifests", "dev-clean")]
    return Report(reasons, kept, printed.get())


def test_prepare_rejects_all_of_it_with_the_reason(report: Report) -> None:
    assert report.reasons == {
        what: [message] for what, message in messages("In a tree of LibriSpeech's layout").items()
    }


def test_prepare_loses_no_utterance_and_tells_how_many_it_rejects(report: Report) -> None:
    assert len(report.kept) + len(IN_A_TREE) == 2 * len(IN_A_TREE) + len(ADDED)
    assert len(set(report.kept)) == len(report.kept)
    lines = {line.split()[0]: line.split() for line in report.printed.splitlines() if line.startswith(" dev-")}
    assert lines["dev-clean"][1:5] == [str(len(report.kept)), str(len(IN_A_TREE)), "0.01", str(len(IN_A_TREE))]
    assert lines["dev-other"][1:6] == ["2", "1", "0.00", "0", "1"], "two utterances, of which one is resampled"
    assert "PART.rejected.jsonl" in report.printed


def make_utterance(folder: Path, id: str, text: str = "HELLO") -> Utterance:
    """A second of noise, in a WAV of floats."""
    write_wave(folder / f"{id}.wav", noise())
    return Utterance(id, text, f"{id}.wav", RATE, RATE, root=str(folder))


# what -> changes to each row of a manifest, whose audio is a.wav
IN_A_MANIFEST: dict[str, list[dict[str, Any]]] = {
    "a path into a parent folder": [{"path": "b/../../a.wav"}],
    "an absolute path": [{"path": "/etc/passwd"}],
    "an address for a path": [{"path": "http://host/a"}],
    "a chained address": [{"path": "zip::a.wav"}],
    "NUL in a path": [{"path": "a\0b"}],
    "no samples": [{"num_samples": 0}],
    "sample rate of 1 Hz": [{"sample_rate": 1}],
    "offset without bytes": [{"offset": 3}],
    "negative offset": [{"offset": -1, "bytes": 5}],
    "no text": [{"text": None}],
    "no utterance": [],
    "ids twice": [{}, {"path": "b.wav"}, {"id": "b"}, {"id": "b"}],
    "audio file that is not there": [{"path": "b/a.wav"}, {"id": "c", "path": "c.wav"}],
    "packed file that is too short": [{"offset": 10, "bytes": 1_000_000}],
}


@pytest.mark.parametrize("what", IN_A_MANIFEST)
def test_a_manifest_is_refused_before_any_work(what: str, tmp_path: Path) -> None:
    """Whoever wrote it: it is data, and read nowhere but below the root."""
    good = make_utterance(tmp_path, "a")
    fields = {name: getattr(good, name) for name in SCHEMA.names}
    write_manifest(tmp_path, "train", [Utterance(**{**fields, **change}) for change in IN_A_MANIFEST[what]], {})
    with pytest.raises(InputError) as error:
        read_manifest(str(tmp_path), str(tmp_path), "train")
    told, _, way_out = as_documented(str(error.value), tmp_path).partition("; ")
    assert told == messages("In a manifest")[what]
    assert "python -m asr.prepare" in way_out


def replace_samples(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: write_wave(path, change(noise()))


def make_flac(path: Path, seconds: float = 1.0) -> None:
    """Under the name of the WAV."""
    soundfile.write(path, noise(seconds), RATE, format="FLAC")


# what -> make(path): spoils an audio file between two epochs
IN_TRAINING: dict[str, Make] = {
    "file that vanished": Path.unlink,
    "FLAC file cut off": lambda path: (make_flac(path), cut_off(path)),
    "FLAC file damaged before its end": lambda path: (make_flac(path), damage(path)),
    "FLAC header with too few samples": lambda path: (make_flac(path, 2.0), declare(path, samples=RATE)),
    "file that is no audio": lambda path: path.write_bytes(b"no audio"),
    "no samples": replace_samples(lambda samples: samples[:0]),
    "one sample fewer than the manifest says": replace_samples(lambda samples: samples[:-1]),
    "more samples than the manifest says": replace_samples(lambda samples: np.tile(samples, (2, 1))),
    "stereo": replace_samples(lambda samples: np.tile(samples, (1, 2))),
    "NaN": replace_samples(lambda samples: with_one(np.nan)),
    "infinite sample": replace_samples(lambda samples: with_one(-np.inf)),
}


def dataset(skip_unreadable: bool) -> UtteranceDataset:
    features = LogMel(RATE, n_fft=400, hop_samples=200, n_mels=8, max_hz=None, floor=1e-5, normalize="none")
    noisy = Augment(wave=[AddGaussianNoise(0.001, 0.01, p=1.0)]) if skip_unreadable else None
    return UtteranceDataset(LETTERS, features, noisy, seed=3, skip_unreadable=skip_unreadable)


@pytest.fixture
def utterances(tmp_path: Path) -> Utterances:
    """Of a, b, c and d, all of one length."""
    return Utterances.of([make_utterance(tmp_path, id, id) for id in "abcd"], str(tmp_path))


@pytest.mark.parametrize("what", IN_TRAINING)
def test_training_leaves_it_out_and_the_rest_as_it_would_have_been(
    what: str, utterances: Utterances, tmp_path: Path
) -> None:
    item = (Position(2, 7), list(utterances))
    whole = dataset(True)[item]
    IN_TRAINING[what](tmp_path / "b.wav")
    rest = dataset(True)[item]
    assert (whole.ids, whole.unreadable, rest.ids) == (["a", "b", "c", "d"], [], ["a", "c", "d"])
    told = [(one.id, as_documented(one.reason, tmp_path)) for one in rest.unreadable]
    assert told == [("b", messages("While audio is read")[what])]
    assert len(rest.ids) + len(rest.unreadable) == len(utterances)
    others = [0, 2, 3]
    for name in ("features", "lengths", "targets", "target_lengths"):
        assert torch.equal(getattr(rest, name), getattr(whole, name)[others])
    assert (rest.position, rest.references, rest.seconds) == (whole.position, ["a", "c", "d"], 3.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_utterance_that_cannot_be_read_does_not_change_the_batches_after_it(
    workers: int, utterances: Utterances, tmp_path: Path
) -> None:
    def stream() -> list:
        batches = EpochBatches(utterances, Augment(), seed=3, size=2, seconds=None, buckets=1)
        return list(islice(training_batches(dataset(True), batches, Position(0, 0), workers, False), 6))

    whole = stream()
    (tmp_path / "b.wav").unlink()
    rest = stream()
    assert sum(len(batch.unreadable) for batch in rest) == 3, "once in each of three epochs"
    for before, after in zip(whole, rest, strict=True):
        assert sorted([*after.ids, *(one.id for one in after.unreadable)]) == sorted(before.ids)
        for row_before, id in enumerate(before.ids):
            if id != "b":
                assert torch.equal(before.features[row_before], after.features[after.ids.index(id)])


def test_a_batch_of_which_nothing_can_be_read_is_empty(utterances: Utterances, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    batch = dataset(True)[Position(0, 0), list(utterances)]
    assert [one.id for one in batch.unreadable] == ["a", "b", "c", "d"]
    assert (batch.ids, batch.references, batch.seconds, batch.padding_share) == ([], [], 0.0, 0.0)
    assert batch.features.shape == (0, 8, 0)
    assert batch.targets.shape == (0, 0)
    assert batch.lengths.shape == batch.target_lengths.shape == (0,)
    assert (batch.lengths.dtype, batch.target_lengths.dtype) == (torch.int64, torch.int64)


@pytest.mark.parametrize("workers", [0, 1])
def test_scoring_stops_at_the_first_utterance_that_cannot_be_read(
    workers: int, utterances: Utterances, tmp_path: Path
) -> None:
    (tmp_path / "b.wav").unlink()
    with pytest.raises(InputError) as error:
        list(evaluation_batches(dataset(False), utterances, 10.0, workers, False))
    told = as_documented(str(error.value), tmp_path)
    reason = messages("While audio is read")["file that vanished"]
    assert (
        told == f"b: {reason}; restore the file, or make the manifest anew without the utterance: python -m asr.prepare"
    )
    assert told in DOCUMENT.read_text()


@pytest.mark.parametrize("samples", [1, 16, 4_095, 4_096, 4_097, 40_000])
@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)], ids=["", "behind a tag"])
def test_no_more_samples_are_seen_in_a_flac_file_than_it_holds(samples: int, tag: bytes, tmp_path: Path) -> None:
    """A frame of FLAC has 4,096 samples: ends that lie in one and between two."""
    path = tmp_path / "a.flac"
    soundfile.write(path, noise()[:1].repeat(samples), RATE)
    path.write_bytes(tag + path.read_bytes())
    assert not hides_samples(path.read_bytes())
    if samples > 1 and not tag:
        declare(path, samples=samples - 1)
        assert hides_samples(path.read_bytes())


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampled_audio_has_the_frames_that_its_seconds_promise(rate: int, tmp_path: Path) -> None:
    """The selection reckons with seconds before any audio is read."""
    log_mel = dataset(True).features
    for samples in (rate, rate + 1, rate // 3):
        path = tmp_path / f"{samples}.wav"
        soundfile.write(path, np.resize(noise(), samples), rate)
        one = Utterance("a", "A", path.name, samples, rate, root=str(tmp_path))
        batch = dataset(True)[Position(0, 0), [one]]
        assert batch.unreadable == []
        assert abs(int(batch.lengths[0]) - log_mel.frames(round(one.seconds * RATE))) <= 1


# the transcript of the second of two utterances
IN_THE_SELECTION = {
    "empty transcript": "",
    "only characters outside the alphabet": "42 ÉÀ!",
    "more symbols than frames": "HELLO " * 20,
}


@pytest.mark.parametrize("what", IN_THE_SELECTION)
def test_the_plan_of_a_training_names_what_is_dropped(what: str, tmp_path: Path) -> None:
    both = [make_utterance(tmp_path, "a"), make_utterance(tmp_path, "b", IN_THE_SELECTION[what])]
    selection = select(Utterances.of(both), LETTERS, lambda seconds: (seconds * 40).astype(int), None, None)
    assert describe_dropped(selection) == messages("In the selection of training utterances")[what]
    assert [one.id for one in selection.kept] == ["a"]
    assert selection.total == 2


def test_every_row_of_the_document_is_a_case_here() -> None:
    assert list(messages("In a tree of LibriSpeech's layout")) == list(IN_A_TREE)
    assert list(messages("In a manifest")) == list(IN_A_MANIFEST)
    assert list(messages("In the selection of training utterances")) == list(IN_THE_SELECTION)
    assert list(messages("While audio is read")) == list(IN_TRAINING)
