"""The prepare command from download to index, and that what it prepares can be trained on."""

import hashlib
import io
import sys
import tarfile

import pytest
from conftest import write_part

from asr import prepare, train
from asr.corpora import download
from asr.corpora.download import Published


def call(monkeypatch, entry_point, *arguments):
    monkeypatch.setattr(sys, "argv", ["asr", *arguments])
    entry_point()


@pytest.fixture
def served(site, tmp_path, monkeypatch):
    """A server with dev-clean.tar.gz, and nothing else."""
    write_part(tmp_path / "made" / "LibriSpeech", "dev-clean", 84, 3, seed=0)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / "LibriSpeech", "LibriSpeech")
    site.files["dev-clean.tar.gz"] = archive.getvalue()
    published = Published(hashlib.md5(archive.getvalue()).hexdigest(), 2703)
    monkeypatch.setitem(download.PARTS, "dev-clean", published)
    monkeypatch.chdir(tmp_path)
    return site


def test_librispeech_is_downloaded_unpacked_indexed_and_then_left_alone(served, tmp_path, monkeypatch, capsys):
    served.cut_after.append(1000)  # the first answer breaks off
    arguments = ("librispeech", "parts=[dev-clean]", f"base_url={served.url}", "root=LibriSpeech")
    call(monkeypatch, prepare.command, *arguments)
    told = capsys.readouterr().out
    assert "incomplete: 3 of 2,703 utterances" in told
    assert served.ranges == [None, "bytes=1000-"]
    index = tmp_path / "LibriSpeech" / "cuts" / "dev-clean.jsonl.gz"
    made = index.stat().st_mtime_ns
    call(monkeypatch, prepare.command, *arguments)
    assert index.stat().st_mtime_ns == made
    assert len(served.ranges) == 2
    assert capsys.readouterr().out == told


def test_what_is_not_there_is_said_and_what_cannot_be_used_is_listed(corpus, tmp_path, monkeypatch, capsys):
    write_part(tmp_path, "dev-clean", 84, 3, seed=0)
    (tmp_path / "dev-clean" / "84" / "1" / "84-1-0001.flac").write_bytes(b"")
    parts = "parts=[dev-clean,dev-other]"
    call(monkeypatch, prepare.command, "librispeech", parts, f"root={tmp_path}", "download=false")
    told = capsys.readouterr().out
    assert "not there" in told
    assert "incomplete: 2 of 2,703" in told
    assert "84-1-0001" in (tmp_path / "cuts" / "dev-clean.rejected.jsonl").read_text()


def test_the_synthetic_corpus_can_be_trained_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is an extra: pip install '.[synthetic]'")
    monkeypatch.chdir(tmp_path)
    parts = (
        "train-clean-100",
        "train-clean-360",
        "train-other-500",
        "dev-clean",
        "dev-other",
        "test-clean",
        "test-other",
    )
    small = [f"hours.{part}=0.005" for part in parts] + [f"speakers.{part}=2" for part in parts]
    call(monkeypatch, prepare.command, "synthetic", "jobs=1", *small)
    assert "incomplete" not in capsys.readouterr().out
    call(monkeypatch, train.main, "experiment=quickstart", "dry_run=true")
    plan = capsys.readouterr().out
    assert "train-clean-360" in plan
    assert "CTC cannot align" not in plan

    (tmp_path / "outputs/corpora/synthetic").rename(tmp_path / "moved")
    call(monkeypatch, train.main, "data=clean", "data.root=moved", "dry_run=true")
    assert "train-clean-360" in capsys.readouterr().out
    (tmp_path / "moved/cuts/dev-clean.jsonl.gz").unlink()
    with pytest.raises(SystemExit):
        call(monkeypatch, train.main, "data=clean", "data.root=moved", "dry_run=true")
    assert "make it: python -m asr.prepare synthetic root=moved parts=[dev-clean]" in capsys.readouterr().err
