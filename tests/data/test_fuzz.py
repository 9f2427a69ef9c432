"""What nobody thought of: any text, any damage to a manifest, any lengths in a batch; the same examples every time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asr.corpora.manifest import SCHEMA, Utterance, Utterances, read_manifest, write_manifest
from asr.data.batches import Position
from asr.data.dataset import Example, Unreadable, collate
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


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of four utterances."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "audio").mkdir()
    made = [Utterance(f"u{n}", f"HELLO {n}", f"audio/u{n}.flac", 16_000, 16_000, "7") for n in range(4)]
    for one in made:
        (folder / one.path).touch()
    write_manifest(folder, "whole", made, {})
    return folder / "whole.parquet"


def read_or_refuse(path: Path, content: bytes) -> Utterances | None:
    """The utterances of a manifest with this content; any exception but InputError fails the test."""
    path.write_bytes(content)
    try:
        return read_manifest(str(path.parent), str(path.parent), path.stem)
    except InputError as error:
        told = str(error)
    assert str(path) in told
    assert "\n" not in told, "one paragraph"
    return None


def keeps_all_rules(utterances: Utterances) -> bool:
    """What read_manifest promises of every utterance."""
    return len({one.id for one in utterances}) == len(utterances) > 0 and all(
        isinstance(one.id, str)
        and isinstance(one.text, str)
        and one.num_samples > 0
        and 4_000 <= one.sample_rate <= 384_000
        and Path(one.location).is_file()
        and Path(one.location).resolve().is_relative_to(Path(one.root).resolve())
        for one in utterances
    )


edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), st.binary(max_size=6)), max_size=3)


def edited(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """Each change replaces so many bytes, from a place (0..1 of the length) on, by others."""
    for place, length, replacement in changes:
        start = int(place * len(content))
        content = content[:start] + replacement + content[start + length :]
    return content


@settings(bounded, max_examples=300)
@given(edits)
def test_a_manifest_with_any_bytes_changed_is_read_or_refused(manifest: Path, changes) -> None:
    """Read only as it was: pages have checksums."""
    utterances = read_or_refuse(manifest.with_name("bytes.parquet"), edited(manifest.read_bytes(), changes))
    assert utterances is None or keeps_all_rules(utterances)


VALUES = {
    "text": st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)),
    "number": st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, -1, 3_999, 384_001])),
}


@settings(bounded, max_examples=300)
@given(st.integers(0, 3), st.sampled_from(SCHEMA.names), st.data())
def test_a_manifest_with_any_value_in_any_field_is_read_or_refused(manifest: Path, row, name, data) -> None:
    table = pq.read_table(manifest)
    rows = table.to_pylist()
    rows[row][name] = data.draw(VALUES["text" if table.schema.field(name).type == "string" else "number"])
    path = manifest.with_name("field.parquet")
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    utterances = read_or_refuse(path, path.read_bytes())
    assert utterances is None or keeps_all_rules(utterances)


def test_the_manifest_that_is_not_changed_is_read(manifest: Path) -> None:
    """Else the tests above would pass if everything were refused."""
    utterances = read_or_refuse(manifest.with_name("same.parquet"), manifest.read_bytes())
    assert utterances is not None
    assert keeps_all_rules(utterances)


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 12)), max_size=6)


@bounded
@given(lengths, st.integers(1, 4), st.integers(0, 2))
def test_a_batch_holds_all_of_every_utterance_and_zeros(sizes, n_mels: int, skipped: int) -> None:
    """Values are never zero, so that what is zero is padding."""
    utterances = [
        Example(
            Utterance(f"u{i}", "", "", frames, 80),
            "x" * symbols,
            torch.rand(frames, n_mels) + 1,
            torch.randint(1, 28, (symbols,)),
        )
        for i, (frames, symbols) in enumerate(sizes)
    ]
    unreadable = [Unreadable(f"v{i}", "gone") for i in range(skipped)]
    batch = collate(Position(0, 0), utterances, unreadable, n_mels)
    longest = [max(column, default=0) for column in zip(*sizes, strict=True)] or [0, 0]
    assert batch.ids == [u.utterance.id for u in utterances]
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
    assert batch.seconds == pytest.approx(sum(u.utterance.seconds for u in utterances))
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
