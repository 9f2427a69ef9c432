"""python -m asr.transcribe: what it writes, and what it says of recordings that it cannot use."""

import json
import sys

import numpy as np
import pytest
import soundfile
from conftest import COMMANDS, RATE, compose_small, tones

from asr.config.build import build_experiment
from asr.errors import InputError
from asr.training import checkpoint
from asr.training.state import TrainState
from asr.transcribe import find_recordings


@pytest.fixture(scope="module")
def best(corpus, tmp_path_factory):
    """A checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("random")
    built = build_experiment(compose_small(corpus, folder))
    state = TrainState(built.recognizer.model, built.optimizer, built.scheduler)
    checkpoint.save(state.to_checkpoint(built.config), folder / "best.pt")
    return folder / "best.pt"


@pytest.fixture
def call(best, tmp_path, monkeypatch, capsys):
    """Calls the command; returns its exit code and what it printed and complained of."""

    def transcribe(*arguments, model=best):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["asr.transcribe", *([f"checkpoint={model}"] if model else []), *arguments])
        code = 0
        try:
            COMMANDS["transcribe"]()
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return transcribe


def speak(path, seconds=1.0, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.resize(tones("abba cab", np.random.default_rng(0)), int(seconds * rate)), rate)


def written(tmp_path):
    folder = tmp_path / "outputs" / "transcripts"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_transcribed_and_what_cannot_be_read_is_listed(call, tmp_path):
    speak(tmp_path / "in/a.wav")
    speak(tmp_path / "in/a.flac")  # of the same name but for the suffix
    speak(tmp_path / "in/deep/a.wav", seconds=65)
    (tmp_path / "in/empty.wav").touch()
    (tmp_path / "in/text.wav").write_text("this is not audio")
    (tmp_path / "in/notes.txt").write_text("neither is this")
    soundfile.write(tmp_path / "in/nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "in/slow.wav", np.ones(100), 1)
    soundfile.write(tmp_path / "in/none.wav", np.ones(0), RATE)
    whole = (tmp_path / "in/a.wav").read_bytes()
    (tmp_path / "in/cut.wav").write_bytes(whole[: len(whole) // 2])
    code, out, _ = call("audio=in")
    assert code == 0
    names = [
        f"{name}.{format}" for name in ("a.flac", "a.wav", "deep/a.wav") for format in ("json", "srt", "txt", "vtt")
    ]
    assert written(tmp_path) == names
    assert "3 recordings transcribed" in out
    for name, reason in {
        "cut": "cut off",
        "empty": "unreadable or cut off (Format not recognised.)",
        "nan": "samples that are not finite",
        "none": "no samples",
        "slow": "a sample rate of 1 Hz, must be 4,000 to 384,000",
        "text": "unreadable or cut off",
    }.items():
        row = next(line for line in out.splitlines() if line.startswith(f"in/{name}.wav"))
        assert reason in row
    found = json.loads((tmp_path / "outputs/transcripts/deep/a.wav.json").read_text())
    assert found["seconds"] == pytest.approx(65)
    assert found["text"] == " ".join(word["text"] for word in found["words"])
    assert found["text"] + "\n" == (tmp_path / "outputs/transcripts/deep/a.wav.txt").read_text()


def test_a_call_again_writes_the_same_over_the_old(call, tmp_path):
    speak(tmp_path / "a.wav")
    call("audio=a.wav", "formats=[json]")
    first = (tmp_path / "outputs/transcripts/a.wav.json").read_bytes()
    (tmp_path / "outputs/transcripts/a.wav.json").write_text("old")
    assert call("audio=a.wav", "formats=[json]")[0] == 0
    assert (tmp_path / "outputs/transcripts/a.wav.json").read_bytes() == first
    assert written(tmp_path) == ["a.wav.json"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["audio=none"], "audio=none: there is no such file or folder"),
    (["audio='none/*.wav'"], "as a pattern it matches no file"),
    (["audio=silent"], "of 1 files in this folder none is named as audio"),
    (["audio=film.mp4"], "no recording can be read"),
    (["audio=a.wav", "formats=[doc]"], "formats=['doc']: it must be a list of txt, json, srt, vtt"),
    (["audio=a.wav", "chunk_seconds=1"], "chunk_seconds=1: it must be a number from 5 to 600"),
    (["audio=a.wav", "device=abacus"], "device=abacus: torch cannot use it"),
    ([], "audio is not given"),
])  # fmt: skip
def test_a_mistake_is_one_paragraph_and_nothing_is_written(call, tmp_path, arguments, message):
    speak(tmp_path / "a.wav")
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent/notes.txt").write_text("nothing")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_no_checkpoint_is_one_paragraph(call, tmp_path):
    speak(tmp_path / "a.wav")
    assert "checkpoint is not given" in call("audio=a.wav", model=None)[2]
    assert "no such file" in call("audio=a.wav", model="none.pt")[2]


def test_names_are_kept_below_the_folder_or_the_fixed_part_of_a_pattern(tmp_path):
    for name in ("x/a.wav", "y/a.wav", "y/b [1].wav"):
        speak(tmp_path / name, 0.1)
    files, folders = find_recordings(str(tmp_path / "*/a.wav")), find_recordings(str(tmp_path))
    assert files.root == folders.root == tmp_path
    assert [str(path.relative_to(tmp_path)) for path in files.paths] == ["x/a.wav", "y/a.wav"]
    assert len(folders.paths) == 3
    odd = find_recordings(str(tmp_path / "y/b [1].wav"))
    assert odd.paths == [tmp_path / "y/b [1].wav"], "a name with brackets is a name first"
    with pytest.raises(InputError, match="no such file"):
        find_recordings(str(tmp_path / "z"))
