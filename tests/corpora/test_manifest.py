"""Reading manifests: nothing unusable gets into a training unnoticed, and every refusal names the way out."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import index_part

from asr import cli
from asr.corpora.manifest import Utterance, Utterances, read_manifest
from asr.data.audio import load_audio
from asr.errors import InputError


def make_part(root: Path, texts: tuple[str, ...] = ("HELLO", "WORLD")) -> None:
    """A part, dev-clean, with utterances of a second: 7-1-0000, 7-1-0001, ..."""
    folder = root / "dev-clean/7/1"
    folder.mkdir(parents=True)
    for number in range(len(texts)):
        noise = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(folder / f"7-1-{number:04d}.flac", noise, 16_000)
    (folder / "7-1.trans.txt").write_text("".join(f"7-1-{n:04d} {text}\n" for n, text in enumerate(texts)))
    index_part(root, "dev-clean")


def read(root: Path, part: str = "dev-clean") -> Utterances:
    return read_manifest(str(root), f"{root}/manifests", part)


def test_a_part_is_read_from_its_manifest(tmp_path: Path) -> None:
    make_part(tmp_path)
    utterances = read(tmp_path)
    assert [(one.id, one.text, one.speaker, one.seconds) for one in utterances] == [
        ("7-1-0000", "HELLO", "7", 1.0),
        ("7-1-0001", "WORLD", "7", 1.0),
    ]
    assert (len(utterances), utterances.hours) == (2, pytest.approx(2 / 3600))


def test_a_part_without_a_manifest_names_the_command_that_makes_it(tmp_path: Path) -> None:
    make_part(tmp_path)
    command = re.escape(f"python -m asr.prepare CORPUS root={tmp_path} parts=[test-clean]")
    with pytest.raises(InputError, match=f"part 'test-clean' .*there are: dev-clean.*; make it: {command}"):
        read(tmp_path, "test-clean")


@pytest.mark.parametrize(
    ("root", "there", "part", "command"),
    [
        ("synthetic", [], "dev-clean", "synthetic"),
        ("LibriSpeech", [], "dev-clean", "librispeech"),
        ("mini_LibriSpeech", [], "dev-clean-2", "mini_librispeech"),
        ("mini_LibriSpeech", ["dev-clean-2/"], "test-clean", "librispeech"),
        ("mine", ["dev-clean/synthetic.json"], "test-clean", "synthetic"),
        ("mine", ["dev-clean/"], "dev-clean", "librispeech"),
        ("an4", [], "train", "an4"),
        ("mine", [], "test-clean", "CORPUS"),
    ],
)
def test_a_root_without_any_manifest_names_the_command_of_its_own_corpus(
    root: str, there: list[str], part: str, command: str, tmp_path: Path
) -> None:
    """Whatever the settings were: every experiment can be run on every corpus."""
    for name in there:
        path = tmp_path / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("{}")
    place = tmp_path / root
    parts = "" if command == "an4" else re.escape(f" parts=[{part}]")
    ways = ".* lists the corpora" if command == "CORPUS" else ""
    told = rf"make it: python -m asr\.prepare {command} root={place}{parts}{ways}"
    told += "" if there else ".*bash scripts/quickstart.sh makes a small one"
    with pytest.raises(InputError, match=f"there are: none.*{told}"):
        read_manifest(str(place), f"{place}/manifests", part)
    with pytest.raises(InputError, match=re.escape(f" manifests={tmp_path}/elsewhere")):
        read_manifest(str(place), f"{tmp_path}/elsewhere", part)


def test_every_named_command_is_one_of_a_corpus_that_can_be_prepared() -> None:
    assert {"synthetic", "librispeech", "mini_librispeech", "an4", "table", "lhotse"} <= {
        path.stem for path in (cli.CONF / "corpus").glob("*.yaml")
    }


def test_a_manifest_is_refused_for_a_root_that_is_gone_or_holds_no_audio(tmp_path: Path) -> None:
    """Else a changed `root` would go unnoticed, and the old audio be trained on."""
    make_part(tmp_path / "a")
    (tmp_path / "b").mkdir()
    manifests = f"{tmp_path}/a/manifests"
    with pytest.raises(InputError, match="does not exist; set it to the folder that holds dev-clean"):
        read_manifest(f"{tmp_path}/c", manifests, "dev-clean")
    with pytest.raises(InputError, match=f"2 audio files .*, the first {tmp_path}/b/dev-clean/7/1/7-1-0000.flac"):
        read_manifest(f"{tmp_path}/b", manifests, "dev-clean")


@pytest.mark.parametrize("how", ["moved", "copied", "linked"])
def test_a_corpus_that_is_moved_copied_or_linked_is_read_at_its_new_place(how: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new place"
    make_part(old)
    if how == "linked":
        new.symlink_to(old)
    else:
        shutil.copytree(old, new) if how == "copied" else old.rename(new)
    for one in read(new):
        assert one.location.startswith(f"{new}/")
        assert len(load_audio(one, 16_000)) == 16_000


@pytest.mark.parametrize("root", ["corpus", "./corpus/", "file://{here}/corpus"])
def test_a_corpus_is_read_under_every_name_of_its_root(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_part(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    root = root.format(here=tmp_path)
    (first, _) = read_manifest(root, f"{root}/manifests", "dev-clean")
    assert len(load_audio(first, 16_000)) == 16_000


@pytest.mark.parametrize("root", ["nosuch://bucket/corpus", "s3://bucket/corpus"])
def test_a_root_that_no_file_system_knows_is_refused(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError, match=f"manifests={root}/manifests: .*fsspec"):
        read_manifest(root, f"{root}/manifests", "dev-clean")


def test_missing_audio_is_counted_and_the_first_file_named(tmp_path: Path) -> None:
    make_part(tmp_path)
    first = tmp_path / "dev-clean/7/1/7-1-0000.flac"
    first.unlink()
    with pytest.raises(InputError, match=f"names 1 audio files .*, the first {first};"):
        read(tmp_path)
    first.parent.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=f"names 2 audio files .*, the first {first};"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "/data/cuts.json", "cuts.yaml"])
def test_a_cut_set_given_as_a_part_is_answered_with_the_command_that_imports_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"python -m asr.prepare lhotse cuts={name} root={tmp_path}"):
        read(tmp_path, name)


def test_an_index_of_the_old_format_is_answered_with_the_command_that_makes_it_anew(tmp_path: Path) -> None:
    make_part(tmp_path)
    (tmp_path / "manifests").rename(tmp_path / "cuts")
    (tmp_path / "cuts/dev-clean.parquet").rename(tmp_path / "cuts/dev-clean.jsonl.gz")
    command = re.escape(f"python -m asr.prepare librispeech root={tmp_path} parts=[dev-clean]")
    with pytest.raises(InputError, match=f"only one of an older format.*{command}"):
        read(tmp_path)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(400) + content[408:])


def change_column(name: str) -> Any:
    def change(path: Path) -> None:
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.names.index(name), name, pa.array([1.5, 2.5])), path)

    return change


DAMAGES = {
    "cut off": cut_off,
    "damaged": damage,
    "empty": lambda path: path.write_bytes(b""),
    "no Parquet": lambda path: path.write_text("id,text\n"),
    "of another program": lambda path: pq.write_table(pa.table({"id": ["a"]}), path),
    "of another version": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata({"asr": json.dumps({"format": 99})}), path
    ),
    "with another type": change_column("num_samples"),
    "without a column": lambda path: pq.write_table(pq.read_table(path).drop_columns(["text"]), path),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_or_foreign_manifest_is_refused_with_the_command_that_makes_it_anew(
    what: str, tmp_path: Path
) -> None:
    make_part(tmp_path)
    DAMAGES[what](tmp_path / "manifests/dev-clean.parquet")
    command = re.escape(f"python -m asr.prepare librispeech root={tmp_path} parts=[dev-clean]")
    with pytest.raises(InputError, match=f"^{tmp_path}/manifests/dev-clean.parquet .*; make it anew: {command}$"):
        read(tmp_path)
    index_part(tmp_path, "dev-clean")  # what the command does
    assert len(read(tmp_path)) == 2


def test_rows_become_the_utterances_that_were_written(tmp_path: Path) -> None:
    """Across the chunks of a table, and after a selection."""
    written = [Utterance(f"{n:03}", f"TEXT {n}", f"{n}.flac", 16_000 + n, 16_000, speaker=None) for n in range(50)]
    table = Utterances.joined([Utterances.of(written[:20]), Utterances.of(written[20:21]), Utterances.of(written[21:])])
    order = np.random.default_rng(0).permutation(50)
    assert table.rows(order) == [written[n] for n in order]
    assert list(table) == written
    odd = table.filter(np.arange(50) % 2 == 1)
    assert list(odd) == written[1::2]
    assert odd.seconds.tolist() == [one.seconds for one in written[1::2]]
