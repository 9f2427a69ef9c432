"""What a lhotse CutSet holds becomes a corpus; every cut that cannot be used is listed with its reason."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from asr import prepare
from asr.corpora.manifest import Utterance, read_manifest

pytest.importorskip("lhotse", reason="lhotse is an extra: pip install '.[lhotse]'")
from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment

RATE = 16_000


def noise(seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels)).astype(np.float32)
    return (samples * 32768).astype(np.int16)


def recording(path: Path, seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> Recording:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, channels, rate), rate)
    return Recording.from_file(path)


def spoken(
    id: str, audio: Recording, start: float = 0.0, seconds: float = 1.0, text: str | None = "HELLO", channel: Any = 0
) -> SupervisionSegment:
    return SupervisionSegment(id, audio.id, start, seconds, channel, text, speaker=f"speaker of {id}")


def make_cut(id: str, audio: Recording, text: str | None = "HELLO", start: float = 0.0) -> MonoCut:
    return MonoCut(id, start, 1.0, 0, [spoken(id, audio, text=text)], recording=audio)


def prepared(root: Path, *cuts: Any) -> str:
    path = root / "spoken_cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(path)
    return call(root, f"cuts={path}")


def call(root: Path, *overrides: str) -> str:
    with pytest.MonkeyPatch.context() as patch, prepare.console.capture() as printed:
        patch.setattr(sys, "argv", ["prepare", "lhotse", f"root={root}", "jobs=1", *overrides])
        prepare.command()
    return printed.get()


def kept(root: Path) -> dict[str, Utterance]:
    return {one.id: one for one in read_manifest(str(root), f"{root}/manifests", "spoken_cuts")}


def reasons(root: Path) -> list[str]:
    lines = map(json.loads, (root / "manifests/spoken_cuts.rejected.jsonl").read_text().splitlines())
    return [f"{one['id']}: {one['reason']}".replace(f"{root}/", "") for one in lines]


def test_whole_files_stay_where_they_are_at_any_rate(tmp_path: Path) -> None:
    audio = [recording(tmp_path / f"sub/{rate}.wav", rate=rate) for rate in (8_000, 16_000, 48_000)]
    printed = prepared(tmp_path, *(make_cut(f"c{number}", one) for number, one in enumerate(audio)))
    assert re.search(r"spoken_cuts +3 +3 +0\.00 +0 +2 *\n", printed)
    rows = [(one.path, one.sample_rate, one.num_samples, one.text, one.speaker) for one in kept(tmp_path).values()]
    assert rows == [
        (f"sub/{rate}.wav", rate, rate, "HELLO", f"speaker of c{n}") for n, rate in enumerate((8_000, 16_000, 48_000))
    ]
    assert not (tmp_path / "spoken_cuts").exists()


def test_supervisions_of_a_long_recording_become_utterances_with_the_same_samples(tmp_path: Path) -> None:
    audio = recording(tmp_path / "long.wav", 3.0)
    segments = [
        spoken("a", audio, 0.0, 1.0, "ONE"),
        spoken("b", audio, 0.5, 1.5, "TWO"),
        spoken("c", audio, 2, 1, None),
    ]
    part = make_cut("d", audio, "THREE", start=2.0)
    printed = prepared(tmp_path, MonoCut("cut", 0.0, 3.0, 0, segments, recording=audio), part)
    assert reasons(tmp_path) == ["c: cut 1: no text"]
    assert re.search(r"spoken_cuts +3 +3 +0\.00 +1 +0 *\n", printed)
    utterances, samples = kept(tmp_path), noise(3.0)[:, 0]
    assert {id: one.text for id, one in utterances.items()} == {"a": "ONE", "b": "TWO", "d": "THREE"}
    for id, (first, last) in {"a": (0, 16_000), "b": (8_000, 32_000), "d": (32_000, 48_000)}.items():
        written, rate = soundfile.read(tmp_path / utterances[id].path, dtype="int16")
        assert rate == RATE
        assert np.array_equal(written, samples[first:last])


def test_what_is_written_once_stays_and_repeated_ids_keep_their_own_audio(tmp_path: Path) -> None:
    audio = recording(tmp_path / "long.wav", 3.0)
    cuts = [make_cut("a", audio, start=0.0), make_cut("a", audio, start=1.0), make_cut("b", audio, start=2.0)]
    printed = prepared(tmp_path, *cuts)
    (reason,) = reasons(tmp_path)
    assert re.fullmatch(r"a: its id belongs to spoken_cuts/\w+\.flac already", reason)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    assert len(times) == 3
    assert np.array_equal(soundfile.read(tmp_path / kept(tmp_path)["a"].path, dtype="int16")[0], noise(3.0)[:RATE, 0])
    assert prepared(tmp_path, *cuts) == printed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")} == times


def test_audio_outside_the_root_mixes_and_channels_are_written_below_it(tmp_path: Path) -> None:
    outside = make_cut("outside", recording(tmp_path / "elsewhere/a.wav"))
    root = tmp_path / "root"
    faster = make_cut("faster", recording(root / "b.wav")).perturb_speed(1.25)
    mixed = make_cut("first", recording(root / "c.wav")).pad(duration=1.5)
    stereo = recording(root / "stereo.wav", channels=2)
    channel = MonoCut("right", 0.0, 1.0, 1, [spoken("right", stereo, channel=1)], recording=stereo)
    prepared(root, outside, faster, mixed, channel)
    assert {id: one.num_samples for id, one in kept(root).items()} == {
        "outside": 16_000, "faster_sp1.25": 12_800, mixed.id: 24_000, "right": 16_000
    }  # fmt: skip
    assert {Path(one.path).parent.name for one in kept(root).values()} == {"spoken_cuts"}


def test_what_cannot_be_used_is_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    audio = recording(tmp_path / "a.wav")
    stereo = recording(tmp_path / "stereo.wav", channels=2)
    infinite, silent = recording(tmp_path / "infinite.wav", 2.0), recording(tmp_path / "silent.wav")
    soundfile.write(tmp_path / "infinite.wav", np.full(2 * RATE, np.inf, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", noise(1.0) * 0, RATE)
    vanished = make_cut("vanished", recording(tmp_path / "b.wav"))
    (tmp_path / "b.wav").unlink()
    past = make_cut("past", audio, start=0.5)
    past.supervisions.append(spoken("late", audio, 5.0))
    prepared(
        tmp_path,
        make_cut("good", audio),
        make_cut("no text", audio, None),
        make_cut("empty text", audio, "  "),
        MonoCut("no supervision", 0.0, 1.0, 0, recording=audio),
        MonoCut("no recording", 0.0, 1.0, 0, [spoken("no recording", audio)]),
        MultiCut("stereo", 0.0, 1.0, [0, 1], [spoken("stereo", stereo, channel=[0, 1])], recording=stereo),
        make_cut("infinite sample", infinite, start=0.5),
        make_cut("silence", silent),
        vanished,
        past,
    )
    assert list(kept(tmp_path)) == ["good"]
    found = dict(one.split(": ", 1) for one in reasons(tmp_path))
    assert re.match(r"cut 9: .*b\.wav", found.pop("vanished"))
    assert re.match(r"cut 10: .", found.pop("past"))
    section = (ROOT / "docs/bad_data.md").read_text().split("\n## In a lhotse CutSet\n")[1].split("\n## ")[0]
    assert found == dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", section, re.MULTILINE))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_cut_set_runs_no_command(mixed: bool, tmp_path: Path) -> None:
    """lhotse runs one where a source is of type command; files from elsewhere are data."""
    audio = recording(tmp_path / "a.wav")
    hostile = make_cut("hostile", recording(tmp_path / "b.wav"))
    hostile.recording.sources[0].type = "command"
    hostile.recording.sources[0].source = f"touch {tmp_path}/was_run; cat {tmp_path}/b.wav"
    if mixed:
        hostile = make_cut("hostile", audio).mix(hostile)
        hostile.id = "hostile"
        hostile.tracks[1].cut.supervisions = []
    prepared(tmp_path, make_cut("good", audio), hostile)
    assert list(kept(tmp_path)) == ["good"]
    (reason,) = reasons(tmp_path)
    assert "audio of type command, must be a file" in reason
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cuts.jsonl", "", "cannot be read as a lhotse CutSet beyond its cut 0: "),
        ("cuts.jsonl", "no JSON", "cannot be read as a lhotse CutSet beyond its cut 0: "),
        (
            "cuts.jsonl",
            '{"id": "a", "recording_id": "a", "start": 0, "duration": 1}\n',
            "SupervisionSegment and no cut",
        ),
        ("cuts.txt", "", "cannot be read as a lhotse CutSet beyond its cut 0: "),
        ("none.jsonl", None, "cannot be read as a lhotse CutSet beyond its cut 0: .*No such file"),
    ],
)
def test_a_file_without_cuts_is_refused(
    name: str, content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as exit:
        call(tmp_path, f"cuts={tmp_path / name}")
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") <= 1


def test_without_lhotse_a_paragraph_says_how_to_install_it(tmp_path: Path, monkeypatch, capsys) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "lhotse"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(SystemExit) as exit:
        call(tmp_path, "cuts=a.jsonl")
    assert exit.value.code == 2
    assert "lhotse is not installed; it is an extra: pip install" in capsys.readouterr().err
