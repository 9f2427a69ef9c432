"""AN4 in each of its forms becomes train, dev and test, and can be trained on."""

import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Site

from asr import prepare, train
from asr.corpora.an4 import find_utterances
from asr.corpora.manifest import read_manifest

RATE = 16_000
SPEAKERS = [f"s{number:02}" for number in range(16)]
DEV = {"s05", "s15"}  # every tenth from the sixth on
SAMPLES = (np.random.default_rng(0).normal(0, 0.1, RATE) * 32767).astype(np.int16)


def write_audio(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "raw":
        SAMPLES.astype(">i2").tofile(f"{path}.raw")
    else:
        soundfile.write(f"{path}.{kind}", SAMPLES, RATE, format="NIST" if kind == "sph" else None)


def make_an4(root: Path, kind: str = "sph") -> Path:
    """Two utterances of each training speaker, and three of a test speaker."""
    speakers = {"train": ["an4_clstk/" + one for one in SPEAKERS], "test": ["an4test_clstk/t00"]}
    (root / "etc").mkdir(parents=True)
    for part, folders in speakers.items():
        stems = [
            f"{folder}/an{number}-{folder[-3:]}-b" for folder in folders for number in range(3 - (part == "train"))
        ]
        for stem in stems:
            write_audio(root / "wav" / stem, kind)
        text = "<s> HELLO </s>" if part == "train" else "ONE <sil> TWO"
        (root / f"etc/an4_{part}.fileids").write_text("\n".join(stems) + "\n")
        lines = [f"{text} ({Path(stem).name})\n" for stem in stems]
        (root / f"etc/an4_{part}.transcription").write_text("".join(lines))
    return root


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["prepare", "an4", "jobs=1", *arguments])
    with prepare.console.capture() as printed:
        prepare.command()
    return printed.get()


@pytest.mark.parametrize("kind", ["sph", "raw", "wav", "flac"])
def test_every_form_gives_the_same_utterances(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_an4(tmp_path / "an4", kind)
    for _ in range(2):
        printed = call(monkeypatch, f"root={root}", "download=false")
        assert re.search(r"train +28 +14 +0.01 +0 +0 *\n dev +4 +2 +0.00 +0 +0 *\n test +3 +1 +0.00 +0 +0 *\n", printed)
    for part, speakers in {"train": set(SPEAKERS) - DEV, "dev": DEV, "test": {"t00"}}.items():
        utterances = list(read_manifest(str(root), f"{root}/manifests", part))
        assert {one.speaker for one in utterances} == speakers
        assert {one.text for one in utterances} == {"ONE TWO" if part == "test" else "HELLO"}
        for one in utterances:
            assert np.array_equal(soundfile.read(root / one.path, dtype="int16")[0], SAMPLES)


def test_it_is_downloaded_once_and_can_be_trained_on(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(make_an4(tmp_path / "made"), "an4")
    site.files["an4_sphere.tar.gz"] = content.getvalue()
    site.cut_after.append(1000)
    arguments = f"base_url={site.url}", f"md5={hashlib.md5(content.getvalue()).hexdigest()}"
    first = call(monkeypatch, *arguments)
    assert call(monkeypatch, *arguments) == first
    assert site.ranges == [None, "bytes=1000-"]
    assert not list(Path("outputs/corpora/an4/archives").glob("*.gz"))
    monkeypatch.setattr(sys, "argv", ["train", "data=an4", "model=ds2_tiny", "dry_run=true", "tracking.uri=null"])
    train.main()
    plan = capsys.readouterr().out
    for part, utterances in {"train": 28, "dev": 4, "test": 3}.items():
        assert re.search(rf"{part} +{part} +{utterances} +0.0\d +none", plan)


def test_what_cannot_be_used_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_an4(tmp_path / "an4")
    (root / "wav/an4_clstk/s00/an0-s00-b.sph").unlink()
    (root / "wav/an4_clstk/s01/an0-s01-b.sph").write_bytes(b"no audio")
    (root / "wav/an4_clstk/s02/an0-s02-b.sph").unlink()
    (root / "wav/an4_clstk/s02/an0-s02-b.raw").write_bytes(b"")
    transcripts = root / "etc/an4_train.transcription"
    transcripts.write_text(re.sub(r".*\(an0-s03-b\)\n|HELLO(?= </s> \(an0-s04)", "", transcripts.read_text()))
    with (root / "etc/an4_train.fileids").open("a") as fileids:
        fileids.write("../../an0-s06-b\nan4_clstk/s07/an0-s07-b\n")
    printed = call(monkeypatch, f"root={root}", "download=false")
    lines = map(json.loads, (root / "manifests/train.rejected.jsonl").read_text().splitlines())
    assert {f"{one['id']}: {re.sub(r' [(].*[)]', '', one['reason'])}" for one in lines} == {
        "an0-s00-b: no audio file wav/an4_clstk/s00/an0-s00-b with .sph, .wav, .flac or .raw",
        "an0-s01-b: unreadable or cut off",
        "an0-s02-b: unreadable or cut off",
        "an0-s03-b: no transcript in etc/an4_train.transcription",
        "an0-s04-b: no transcript in etc/an4_train.transcription",
        "an0-s06-b: no audio file wav/../../an0-s06-b with .sph, .wav, .flac or .raw",
        "an0-s07-b: its id belongs to wav/an4_clstk/s07/an0-s07-b.sph already",
    }
    assert re.search(r"train +23 +14 +0.01 +7 +0 *\n", printed)


def test_the_dev_speakers_of_the_whole_corpus_are_seven(tmp_path: Path) -> None:
    """74 speakers train; the rule gives 7 of them to dev."""
    root = make_an4(tmp_path / "an4")
    stems = [f"an4_clstk/x{number:02}/an0-x{number:02}-b" for number in range(74)]
    (root / "etc/an4_train.fileids").write_text("\n".join(stems))
    (root / "etc/an4_train.transcription").write_text("\n".join(f"A ({Path(stem).name})" for stem in stems))
    for stem in stems:
        write_audio(root / "wav" / stem, "raw")
    assert [one.speaker for one in find_utterances(root)["dev"][0]] == ["x05", "x15", "x25", "x35", "x45", "x55", "x65"]


@pytest.mark.parametrize("where", ["nowhere", ""])
def test_a_root_without_an4_is_said(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, f"root={tmp_path / where}", "download=false")
    assert "holds no AN4" in (error := capsys.readouterr().err)
    assert "set root to the folder with AN4's etc/ and wav/, or download=true" in error
