"""The prepare command from download to manifest, and that what it prepares can be trained on."""

import hashlib
import io
import re
import sys
import tarfile

import pytest
from conftest import write_part

from asr import prepare, train
from asr.corpora.librispeech import PARTS, Published


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
    monkeypatch.setitem(PARTS, "dev-clean", published)
    monkeypatch.chdir(tmp_path)
    return site


def test_librispeech_is_downloaded_unpacked_indexed_and_then_left_alone(served, tmp_path, monkeypatch, capsys):
    served.cut_after.append(1000)  # the first answer breaks off
    arguments = ("librispeech", "parts=[dev-clean]", f"base_url={served.url}", "root=LibriSpeech")
    call(monkeypatch, prepare.command, *arguments)
    printed = capsys.readouterr().out
    assert "dev-clean is incomplete: 3 of 2,703 utterances" in printed
    assert served.ranges == [None, "bytes=1000-"]
    manifest = tmp_path / "LibriSpeech/manifests/dev-clean.parquet"
    made = manifest.stat().st_mtime_ns
    call(monkeypatch, prepare.command, *arguments)
    assert manifest.stat().st_mtime_ns == made
    assert len(served.ranges) == 2
    assert capsys.readouterr().out == printed


def test_what_is_not_there_is_said_and_what_cannot_be_used_is_listed(corpus, tmp_path, monkeypatch, capsys):
    write_part(tmp_path, "dev-clean", 84, 3, seed=0)
    (tmp_path / "dev-clean" / "84" / "1" / "84-1-0001.flac").write_bytes(b"")
    parts = "parts=[dev-clean,dev-other]"
    call(monkeypatch, prepare.command, "librispeech", parts, f"root={tmp_path}", "download=false")
    printed = capsys.readouterr().out
    assert "dev-other is not there" in printed
    assert "incomplete: 2 of 2,703" in printed
    assert f"{tmp_path}/manifests/PART.rejected.jsonl" in printed
    assert "84-1-0001" in (tmp_path / "manifests/dev-clean.rejected.jsonl").read_text()


def test_the_table_names_the_most_common_characters_outside_the_alphabet_and_fits_80_columns(
    tmp_path, monkeypatch, capsys
):
    write_part(tmp_path, "train-clean-100", 84, 3, seed=0)
    transcripts = tmp_path / "train-clean-100/84/1/84-1.trans.txt"
    lines = transcripts.read_text().splitlines()
    transcripts.write_text("\n".join(f"{line} É-É-É 1234 [b]\t" for line in lines))
    call(monkeypatch, prepare.command, "librispeech", "parts=[train-clean-100]", f"root={tmp_path}", "download=false")
    printed = capsys.readouterr().out
    assert "characters outside the alphabet: 'é' 9, '-' 6, '1' 3, '2' 3, '3' 3\n" in printed
    table = printed[printed.index("\n part ") :].split("\ntrain-clean-100 is")[0]
    assert max(map(len, map(str.rstrip, table.splitlines()))) <= 80


MISTAKES = {
    "no corpus": (["root=x"], "no corpus is named"),
    "unknown corpus": (["timit"], "corpus=timit: there is no such option"),
    "unknown importer": (["an4", "importer=x"], "importer=x: it must be one of librispeech"),
    "no file": (["table", "root=."], "file must be given; --help"),
    "no file and no root": (["table"], "file and root must be given"),
    "no cuts": (["lhotse", "root=."], "cuts must be given"),
    "no part": (["pack"], "part must be given"),
    "no parts": (["librispeech", "parts=[]"], r"parts=\[\]: name at least one part"),
    "part that is not published": (["librispeech", "parts=[dev-clear]"], "has no folder dev-clear|does not exist; set"),
    "no folder": (["librispeech", "download=false"], "does not exist; set root .* train-clean-100, .*dev-clean-2"),
    "folder too high": (["librispeech", "root=high", "parts=[dev-clean]"], "set root=.*/high/LibriSpeech"),
    "URL as a root": (["an4", "root=s3://bucket/an4"], "root=s3://bucket/an4: it must be a folder of this machine"),
    "URL to pack into": (["pack", "part=a", "to=s3://bucket"], "to=s3://bucket: it must be a folder of this machine"),
    "shard of nothing": (["pack", "part=train", "shard_mb=0"], "shard_mb=0: it must be a number above 0"),
    "part without a manifest": (["pack", "part=train", "root=high"], "part 'train' has no manifest high/manifests/"),
    "unknown setting": (["an4", "roots=x"], "roots: there is no such setting; did you mean root?"),
    "no threads": (["an4", "jobs=0"], "jobs=0: it must be a whole number of at least 1"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_on_the_command_line_gets_one_paragraph(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "high/LibriSpeech/dev-clean").mkdir(parents=True)
    arguments, message = MISTAKES[what]
    with pytest.raises(SystemExit) as exit:
        call(monkeypatch, prepare.command, *arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert re.search(message, error)
    assert error.count("\n") <= 1


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
    (tmp_path / "moved/manifests/dev-clean.parquet").unlink()
    with pytest.raises(SystemExit):
        call(monkeypatch, train.main, "data=clean", "data.root=moved", "dry_run=true")
    assert "make it: python -m asr.prepare synthetic root=moved parts=[dev-clean]" in capsys.readouterr().err
