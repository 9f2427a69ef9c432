"""Indexing a tree: every line and file is kept or rejected with a reason; a manifest that fits is kept."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import index_part

from asr.corpora import index
from asr.corpora.audio_files import AudioError, measure
from asr.data.audio import load_audio
from asr.errors import InputError


def write_audio(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).normal(0, level, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def write_chapter(root: Path, speaker: int, texts: list[str], part: str = "dev-clean") -> Path:
    """Chapter 1 of a speaker: utterances 0000, 0001, ... of half a second each, with these texts."""
    folder = root / part / str(speaker) / "1"
    for number in range(len(texts)):
        write_audio(folder / f"{speaker}-1-{number:04d}.flac")
    lines = [f"{speaker}-1-{number:04d} {text}\n" for number, text in enumerate(texts)]
    (folder / f"{speaker}-1.trans.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def add_line(folder: Path, line: bytes) -> None:
    with next(folder.glob("*.trans.txt")).open("ab") as file:
        file.write(line)


def rejected(manifests: Path) -> dict[str, str]:
    lines = (manifests / "dev-clean.rejected.jsonl").read_text().splitlines()
    return {(record := json.loads(line))["id"]: record["reason"] for line in lines}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Speakers 7 and 8, with two utterances and one."""
    write_chapter(tmp_path / "root", 8, ["GOOD NIGHT"])
    write_chapter(tmp_path / "root", 7, ["HELLO", "WORLD ÉTÉ"])
    return tmp_path / "root"


def test_a_good_tree_becomes_a_table_in_the_order_of_its_ids(root: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    summary = index_part(root, "dev-clean", tmp_path / "manifests", 2, lambda *progress: told.append(progress))
    assert (summary.part, len(summary.utterances), summary.speakers, summary.rejected) == ("dev-clean", 3, 2, 0)
    assert summary.utterances.hours == pytest.approx(1.5 / 3600)
    assert told[-1] == ("index", 3, 3)
    assert [(one.id, one.text, one.speaker) for one in summary.utterances] == [
        ("7-1-0000", "HELLO", "7"),
        ("7-1-0001", "WORLD ÉTÉ", "7"),
        ("8-1-0000", "GOOD NIGHT", "8"),
    ]
    assert [len(load_audio(one, 16_000)) for one in summary.utterances] == [8000] * 3
    assert [path.name for path in (tmp_path / "manifests").iterdir()] == ["dev-clean.parquet"]


def test_the_commonest_characters_outside_the_alphabet_are_counted(tmp_path: Path) -> None:
    write_chapter(tmp_path, 7, ["ÉTÉ, DON'T", "8 É é ~"])
    summary = index_part(tmp_path, "dev-clean", tmp_path, 1)
    assert summary.foreign(" abcdefghijklmnopqrstuvwxyz", most=2) == [("é", 4), (",", 1)]
    assert dict(summary.foreign(" abcdefghijklmnopqrstuvwxyz")).keys() == {"é", ",", "'", "8", "~"}


def test_the_same_tree_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for name, jobs in (("a", 1), ("b", 3)):
        index_part(root, "dev-clean", tmp_path / name, jobs)
    assert (tmp_path / "a/dev-clean.parquet").read_bytes() == (tmp_path / "b/dev-clean.parquet").read_bytes()


def test_a_manifest_names_no_root(root: Path, tmp_path: Path) -> None:
    """So that two copies of a corpus have the same manifest."""
    (root / "dev-clean/7/1/7-1-0001.flac").write_bytes(b"no audio")
    index_part(root, "dev-clean", tmp_path / "manifests", 1)
    files = [path.read_bytes() for path in (tmp_path / "manifests").iterdir()]
    assert len(files) == 2
    assert not any(str(tmp_path).encode() in content for content in files)


def test_a_second_call_reads_no_audio(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = index_part(root, "dev-clean", tmp_path, 1)
    monkeypatch.setattr(index, "measure", None)
    again = index_part(root, "dev-clean", tmp_path, 1)
    assert (again.utterances.table, again.rejected) == (first.utterances.table, first.rejected)


@pytest.mark.parametrize(
    "change", ["new utterance", "new transcript", "new audio", "lost audio", "lost manifest", "broken manifest"]
)
def test_a_changed_tree_or_a_damaged_manifest_is_indexed_anew(change: str, root: Path, tmp_path: Path) -> None:
    index_part(root, "dev-clean", tmp_path, 1)
    folder, manifest = root / "dev-clean/7/1", tmp_path / "dev-clean.parquet"
    if change == "new utterance":
        write_chapter(root, 9, ["MORE"])
    elif change == "new transcript":
        (folder / "7-1.trans.txt").write_text("7-1-0000 HELLO\n7-1-0001 THERE\n")
    elif change == "new audio":
        write_audio(folder / "7-1-0000.flac", seconds=1)
    elif change == "lost audio":
        (folder / "7-1-0000.flac").unlink()
    elif change == "lost manifest":
        manifest.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:8] + bytes(100) + manifest.read_bytes()[108:])
    told: list[tuple[str, int, int]] = []
    summary = index_part(root, "dev-clean", tmp_path, 1, lambda *progress: told.append(progress))
    assert told
    assert len(summary.utterances) == {"new utterance": 4, "lost audio": 2}.get(change, 3)


def test_an_index_without_decoding_does_not_stand_for_one_with(root: Path, tmp_path: Path) -> None:
    write_audio(root / "dev-clean/7/1/7-1-0000.flac", level=0.0)
    assert index_part(root, "dev-clean", tmp_path, 1, verify_audio=False).rejected == 0
    assert index_part(root, "dev-clean", tmp_path, 1).rejected == 1
    assert index_part(root, "dev-clean", tmp_path, 1, verify_audio=False).rejected == 1, (
        "the stricter index serves both"
    )


def test_an_interrupted_write_leaves_the_old_manifest_and_makes_it_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_part(root, "dev-clean", tmp_path, 1)
    old = (tmp_path / "dev-clean.parquet").read_bytes()
    write_chapter(root, 9, ["MORE"])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(InputError, match="the disk is full"):
            index_part(root, "dev-clean", tmp_path, 1)
    assert (tmp_path / "dev-clean.parquet").read_bytes() == old
    assert not list(tmp_path.glob(".*partial"))
    assert len(index_part(root, "dev-clean", tmp_path, 1).utterances) == 4


def test_every_flaw_is_rejected_with_its_reason_and_nothing_is_lost(root: Path, tmp_path: Path) -> None:
    folder = write_chapter(root, 9, ["GOOD", "", "STEREO", "EMPTY", "JUNK", "CUT OFF", "TWICE", "CP1252"])
    write_audio(folder / "9-1-0002.flac", channels=2)
    soundfile.write(folder / "9-1-0003.flac", np.zeros(0), 16_000, format="WAV")
    (folder / "9-1-0004.flac").write_bytes(b"no audio at all")
    whole = (folder / "9-1-0005.flac").read_bytes()
    (folder / "9-1-0005.flac").write_bytes(whole[: len(whole) * 9 // 10])
    transcript = folder / "9-1.trans.txt"
    transcript.write_bytes(transcript.read_bytes().replace(b"CP1252", b"\xc9T\xc9"))
    add_line(folder, b"9-1-0006 TWICE AGAIN\n\n9-1-0010 NO SUCH AUDIO\nA TEXT WITHOUT AN ID\n")
    write_audio(folder / "9-1-0011.flac")
    copy = root / "dev-clean/9 copy/1/9-1-0000.flac"
    write_audio(copy)
    (copy.parent / "9-1.trans.txt").write_text("9-1-0000 GOOD\n")

    summary = index_part(root, "dev-clean", tmp_path, 2)

    assert (len(summary.utterances), summary.rejected) == (
        3 + 2,
        11,
    )  # 3 of root; 9-1-0000 and the first line of 9-1-0006
    reasons = rejected(tmp_path)
    expected = {
        "9-1-0000": f"its id belongs to {folder.relative_to(root)}/9-1-0000.flac already",
        "9-1-0001": "line 2: empty transcript",
        "9-1-0002": "2 channels, must be one; mix down: ffmpeg -i IN -ac 1 OUT.flac",
        "9-1-0003": "no samples",
        "9-1-0004": "unreadable or cut off",
        "9-1-0005": "unreadable or cut off",
        "9-1-0006": "line 9: its id stands in an earlier line already",
        "9-1-0007": "line 8: its text is not UTF-8",
        "9-1-0010": "line 11: no audio file 9-1-0010.flac",
        "9-1-0011": "audio file without a transcript line",
        "A": "line 12: malformed: it must begin with an id 9-1-NUMBER",
    }
    assert reasons.keys() == expected.keys()
    for id, reason in expected.items():
        assert reasons[id].startswith(reason)
    paths = [json.loads(line)["path"] for line in (tmp_path / "dev-clean.rejected.jsonl").read_text().splitlines()]
    assert all((root / path).is_file() for path in paths)


@pytest.mark.parametrize("name", ["a::b", "file:--x"])
def test_a_folder_with_colons_in_its_name_is_read_like_any_other(name: str, tmp_path: Path) -> None:
    """fsspec would take :: for a chain of addresses."""
    folder = tmp_path / "dev-clean" / name / "1"
    write_audio(folder / "7-1-0000.flac")
    (folder / "7-1.trans.txt").write_text("7-1-0000 HELLO\n")
    (one,) = index_part(tmp_path, "dev-clean", tmp_path / "manifests", 1).utterances
    assert len(load_audio(one, 16_000)) == 8_000


@pytest.mark.parametrize("channels_and_type", [("PCM_16", False), ("FLOAT", False), ("PCM_16", True)])
def test_a_wav_file_that_is_cut_off_is_rejected(channels_and_type: tuple[str, bool], tmp_path: Path) -> None:
    """libsndfile shortens it and says nothing. A stream's header declares no length."""
    subtype, streamed = channels_and_type
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 8_000), 16_000, subtype=subtype)
    assert measure(path, verify=True) == (8_000, 16_000)
    content = bytearray(path.read_bytes())
    if streamed:
        place = content.find(b"data")
        content[place + 4 : place + 8] = b"\xff" * 4
        path.write_bytes(content)
        assert measure(path, verify=True) == (8_000, 16_000)
    else:
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(AudioError, match="cut off"):
            measure(path, verify=False)


@pytest.mark.parametrize("flaw", ["silence", "hole"])
def test_decoding_finds_what_the_header_does_not_show(flaw: str, root: Path, tmp_path: Path) -> None:
    path = write_audio(root / "dev-clean/7/1/7-1-0000.flac", seconds=2, level=0.0 if flaw == "silence" else 0.1)
    if flaw == "hole":
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
        path.write_bytes(content)
    assert index_part(root, "dev-clean", tmp_path, 1, verify_audio=False).rejected == 0
    assert index_part(root, "dev-clean", tmp_path, 1).rejected == 1
    assert ("silence" in rejected(tmp_path)["7-1-0000"]) == (flaw == "silence")


def test_another_sample_rate_is_kept_with_its_true_length_and_counted(root: Path, tmp_path: Path) -> None:
    write_audio(root / "dev-clean/7/1/7-1-0000.flac", seconds=2, rate=8_000)
    utterances = index_part(root, "dev-clean", tmp_path, 1).utterances
    assert utterances.resampled(16_000) == 1
    first = next(iter(utterances))
    assert (first.seconds, first.sample_rate) == (2.0, 8_000)


@pytest.mark.parametrize("rate", [3_999, 4_000, 384_000, 384_001])
def test_sample_rates_beyond_those_of_speech_are_rejected(rate: int, root: Path, tmp_path: Path) -> None:
    """Its length in seconds would mean nothing, and its resampling cost hours and gigabytes."""
    soundfile.write(root / "dev-clean/7/1/7-1-0000.flac", np.ones(rate), rate, format="WAV")
    index_part(root, "dev-clean", tmp_path, 1, verify_audio=False)
    if rate in (4_000, 384_000):
        assert not (tmp_path / "dev-clean.rejected.jsonl").exists()
    else:
        assert rejected(tmp_path) == {"7-1-0000": f"a sample rate of {rate} Hz, must be 4,000 to 384,000"}


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_the_text(root: Path, tmp_path: Path) -> None:
    (root / "dev-clean/7/1/7-1.trans.txt").write_bytes("\ufeff7-1-0000 HELLO\r\n7-1-0001\tWORLD\r\n".encode())
    utterances = index_part(root, "dev-clean", tmp_path, 1).utterances
    assert [one.text for one in utterances] == ["HELLO", "WORLD", "GOOD NIGHT"]


def test_a_file_name_that_is_not_utf_8_is_rejected_like_any_other(root: Path, tmp_path: Path) -> None:
    write_audio(root / "dev-clean/7/1/extra.flac").rename(root / "dev-clean/7/1" / os.fsdecode(b"\xff.flac"))
    assert index_part(root, "dev-clean", tmp_path, 1).rejected == 1
    assert rejected(tmp_path) == {os.fsdecode(b"\xff"): "audio file without a transcript line"}


def test_a_part_without_one_usable_utterance_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    folder = write_chapter(tmp_path / "root", 7, ["HELLO"])
    (folder / "7-1-0000.flac").write_bytes(b"junk")
    with pytest.raises(
        InputError, match=r"none of its 1 utterances can be used; the first: .*7-1-0000.flac: unreadable"
    ):
        index_part(tmp_path / "root", "dev-clean", tmp_path, 1)
    assert "7-1-0000" in rejected(tmp_path)
    assert not (tmp_path / "dev-clean.parquet").exists()


def test_wrong_roots_and_parts_say_what_is_there(root: Path, tmp_path: Path) -> None:
    (root / "empty").mkdir()
    (tmp_path / "above").mkdir()
    (tmp_path / "above/LibriSpeech").symlink_to(root)
    for place, part, message in (
        (tmp_path / "nowhere", "dev-clean", "does not exist; set root"),
        (root, "dev-clear", "has no folder dev-clear, only dev-clean, empty; set root"),
        (root, "empty", "holds no transcript; it must be laid out as SPEAKER/CHAPTER"),
        (tmp_path / "above", "dev-clean", f"set root={tmp_path}/above/LibriSpeech"),
    ):
        with pytest.raises(InputError, match=message):
            index_part(place, part, tmp_path / "manifests", 1)
