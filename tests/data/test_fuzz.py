"""What nobody thought of: any text, any damage to a manifest, any lengths in a batch; the same examples every time."""

import gzip
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from asr.corpora.cuts import TOLERANCE_SECONDS, load_cuts
from asr.corpora.utterance import INDEX_VERSION, IndexedCut
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut

from asr.data.batches import Position
from asr.data.dataset import Unreadable, Utterance, collate
from asr.data.features import LogMel
from asr.data.text import Alphabet
from asr.errors import InputError

bounded = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LETTERS = " abcdefghijklmnopqrstuvwxyz"
ALPHABETS = [Alphabet(LETTERS), Alphabet(f"{LETTERS}'äöüß"), Alphabet("σς я\u0307")]


@bounded
@given(st.sampled_from(ALPHABETS), st.text())
@example(ALPHABETS[2], "ΌΣΟΣ İ \ud800")
def test_any_text_becomes_symbols_and_back(alphabet: Alphabet, text: str) -> None:
    normalized = alphabet.normalize(text)
    assert set(normalized) <= set(alphabet.symbols)
    assert normalized == " ".join(normalized.split())
    assert alphabet.normalize(normalized) == normalized
    ids = alphabet.encode(normalized)
    assert all(1 <= id < alphabet.size for id in ids)
    assert alphabet.decode(ids) == normalized


@bounded
@given(st.text(max_size=12), st.text())
@example("ab", "a b")
@example(" \t", "a\tb")
def test_any_symbols_are_refused_or_an_alphabet_that_covers_its_texts(symbols: str, text: str) -> None:
    try:
        alphabet = Alphabet(symbols)
    except InputError:
        return
    normalized = alphabet.normalize(text)
    assert alphabet.decode(alphabet.encode(normalized)) == normalized == alphabet.normalize(normalized)


def keeps_all_rules(cuts: Iterable[Cut]) -> bool:
    """What load_cuts promises of every cut."""
    cuts = [cut.mono() if isinstance(cut, IndexedCut) else cut for cut in cuts]
    return len({cut.id for cut in cuts}) == len(cuts) > 0 and all(
        type(cut) is MonoCut
        and isinstance(cut.id, str)
        and len(cut.supervisions) == 1
        and isinstance(cut.supervisions[0].text, str)
        and all(math.isfinite(number) for number in (cut.start, cut.duration))
        and cut.start >= 0
        and cut.num_samples >= 1
        and cut.end <= cut.recording.num_samples / cut.recording.sampling_rate + TOLERANCE_SECONDS
        and cut.recording.sources
        and all(Path(source.source).is_file() for source in cut.recording.sources if source.type == "file")
        for cut in cuts
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with four good cuts: two as an index has them, one of lhotse's, and one with two supervisions."""
    folder = tmp_path_factory.mktemp("fuzz")
    cuts = []
    for number in range(4):
        path = folder / "audio" / f"u{number}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full(16_000, 0.1), 16_000)
        spans = [(0.0, 0.4), (0.4, 0.6)] if number == 3 else [(0.0, 1.0)]
        supervisions = [
            SupervisionSegment(f"u{number}-{i}", f"u{number}", *span, 0, "HELLO") for i, span in enumerate(spans)
        ]
        cuts.append(
            IndexedCut(f"u{number}", "HELLO", "7", str(folder / "audio"), 16_000, 16_000).mono()
            if number < 2
            else MonoCut(f"u{number}", 0.0, 1.0, 0, supervisions, recording=Recording.from_file(path))
        )
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl")
    return folder / "cuts.jsonl"


def load_or_refuse(path: Path, content: bytes, as_part: bool = False) -> bool:
    """Whether the file was loaded, as a CutSet or the index of a part; any exception but InputError fails the test."""
    path.write_bytes(content)
    name = path.name.split(".")[0]
    (path.parent / f"{name}.stamp.json").write_text(json.dumps({"version": INDEX_VERSION}))
    try:
        cuts = load_cuts(name if as_part else str(path), path.parent, path.parent)
    except InputError as error:
        told = str(error)
    else:
        assert keeps_all_rules(cuts)
        return True
    assert str(path) in told
    assert "\n" not in told, "one paragraph"
    return False


def relative(lines: str, manifest: Path) -> str:
    """As in an index, whose paths count from the root."""
    return lines.replace(f"{manifest.parent}/", "")


edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), st.binary(max_size=6)), max_size=3)


def edited(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Each change replaces so many bytes, from a place (0..1 of the length) on, by others."""
    for place, length, replacement in changes:
        start = int(place * len(content))
        content = content[:start] + replacement + content[start + length :]
    return content


@bounded
@given(edits)
def test_a_manifest_with_any_bytes_changed_is_read_or_refused(manifest: Path, changes) -> None:
    load_or_refuse(manifest.with_name("bytes.jsonl"), edited(manifest.read_bytes(), changes))


@bounded
@given(edits)
def test_an_archived_manifest_with_any_bytes_changed_is_read_or_refused(manifest: Path, changes) -> None:
    zipped = gzip.compress(manifest.read_bytes(), mtime=0)
    load_or_refuse(manifest.with_name("bytes.jsonl.gz"), edited(zipped, changes))


FIELDS = [
    *(("id",), ("start",), ("duration",), ("channel",), ("type",), ("supervisions",), ("recording",)),
    *(("supervisions", 0), ("supervisions", 0, "text"), ("supervisions", 0, "id"), ("supervisions", 0, "channel")),
    *(("supervisions", 0, "start"), ("supervisions", 0, "duration")),
    *(("recording", "sources"), ("recording", "sources", 0, "source"), ("recording", "sources", 0, "type")),
    *(("recording", "sources", 0, "channels"), ("recording", "num_samples"), ("recording", "sampling_rate")),
    *(("recording", "duration"), ("recording", "channel_ids")),
]
json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 0.5, 10**40, 1e300, math.nan, math.inf, -math.inf]),
    st.floats(),
    st.text(st.characters(exclude_characters="\n"), max_size=4),
    st.just([]),
    st.just({}),
    st.just([0]),
)


@settings(bounded, max_examples=400)
@given(st.integers(0, 3), st.sampled_from(FIELDS), json_values, st.booleans())
@example(0, ("recording", "sampling_rate"), 0, False)
@example(0, ("duration",), math.nan, False)
@example(1, ("supervisions", 0, "text"), 5, False)
@example(3, ("supervisions", 0, "id"), "u3-1", False)
@example(3, ("supervisions", 0, "duration"), 0.0, False)
@example(0, ("recording", "sources", 0, "source"), "a\0b", True)
@example(0, ("recording", "sources", 0, "type"), "memory", True)
def test_a_cut_with_any_value_in_any_field_is_read_or_refused(manifest, number, field, value, as_part) -> None:
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    place = records[number]
    for key in field[:-1]:
        place = place[key]
    place[field[-1]] = value
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if as_part:
        lines = relative(lines, manifest)
    load_or_refuse(manifest.with_name("field.jsonl.gz"), gzip.compress(lines.encode(), compresslevel=1), as_part)


def test_the_manifest_that_is_not_changed_is_read(manifest: Path) -> None:
    """Else the tests above would pass if everything were refused."""
    assert load_or_refuse(manifest.with_name("same.jsonl"), manifest.read_bytes())
    assert load_or_refuse(manifest.with_name("same.jsonl.gz"), gzip.compress(manifest.read_bytes()))
    index = relative(manifest.read_text(), manifest)
    assert load_or_refuse(manifest.with_name("same.jsonl.gz"), gzip.compress(index.encode()), as_part=True)


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), max_size=6)


@bounded
@given(lengths, st.integers(1, 4), st.integers(0, 2))
def test_a_batch_holds_all_of_every_utterance_and_zeros(sizes, n_mels: int, skipped: int) -> None:
    """Values are never zero, so that what is zero is padding."""
    utterances = [
        Utterance(f"u{i}", "x" * symbols, torch.rand(frames, n_mels) + 1, torch.randint(1, 28, (symbols,)), frames / 80)
        for i, (frames, symbols) in enumerate(sizes)
    ]
    unreadable = [Unreadable(f"v{i}", "gone") for i in range(skipped)]
    batch = collate(Position(0, 0), utterances, unreadable, n_mels)
    longest = [max(column, default=0) for column in zip(*sizes, strict=True)] or [0, 0]
    assert batch.ids == [u.id for u in utterances]
    assert batch.references == [u.reference for u in utterances]
    assert batch.unreadable == unreadable
    assert batch.features.shape == (len(sizes), n_mels, longest[0])
    assert batch.targets.shape == (len(sizes), longest[1])
    assert [*zip(batch.lengths.tolist(), batch.target_lengths.tolist(), strict=True)] == sizes
    for row, one in enumerate(utterances):
        assert torch.equal(batch.features[row, :, : len(one.features)].T, one.features)
        assert not batch.features[row, :, len(one.features) :].any()
        assert torch.equal(batch.targets[row, : len(one.targets)], one.targets)
        assert not batch.targets[row, len(one.targets) :].any()
    assert batch.seconds == pytest.approx(sum(u.seconds for u in utterances))
    assert 0 <= batch.padding_share < 1
    assert (batch.lengths.dtype, batch.targets.dtype, batch.features.dtype) == (torch.int64, torch.int64, torch.float32)


LOG_MELS = {
    normalize: LogMel(16_000, n_fft=400, hop_samples=200, n_mels=8, max_hz=None, floor=1e-5, normalize=normalize)
    for normalize in ("none", "utterance")
}


@bounded
@given(st.sampled_from(sorted(LOG_MELS)), st.integers(0, 1000), st.sampled_from([0.0, 1e-30, 0.1, 1.0, 100.0]))
def test_any_short_wave_has_as_many_finite_frames_as_promised(normalize: str, samples: int, level: float) -> None:
    log_mel = LOG_MELS[normalize]
    features = log_mel(torch.sin(torch.arange(samples) * 0.3) * level)
    assert features.shape == (8, log_mel.frames(samples))
    assert features.isfinite().all()
