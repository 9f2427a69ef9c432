"""A table of one's own recordings becomes a corpus; every line that cannot be used is listed with its reason.

The reasons are those of docs/bad_data.md.
"""

import csv
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, SMALL

from asr import prepare, train
from asr.corpora.manifest import read_manifest

RATE = 16_000
COLUMNS = ("path", "text", "id", "speaker", "part", "seconds")


def write_audio(path: Path, rate: int = RATE, seconds: float = 1.0, **how: str) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **how)


def prepared(root: Path, content: str | bytes, *overrides: str, name: str = "corpus.csv") -> str:
    """Prepare a table in the root itself, and return what was printed."""
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.MonkeyPatch.context() as patch, prepare.console.capture() as printed:
        patch.setattr(sys, "argv", ["prepare", "table", f"file={root / name}", f"root={root}", "jobs=1", *overrides])
        prepare.command()
    return printed.get()


def refusal(root: Path, content: str | bytes, capsys: pytest.CaptureFixture, *overrides: str, name: str) -> str:
    with pytest.raises(SystemExit) as exit:
        prepared(root, content, *overrides, name=name)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert error.count("\n") <= 1
    return error


def kept(root: Path, part: str = "train") -> dict[str, str]:
    return {one.id: one.text for one in read_manifest(str(root), f"{root}/manifests", part)}


def reasons(root: Path, part: str = "train") -> list[str]:
    path = root / f"manifests/{part}.rejected.jsonl"
    found = [json.loads(line)["reason"] for line in path.read_text().splitlines()] if path.exists() else []
    words = r"(unreadable or cut off \().*(?=\))"
    return [re.sub(words, r"\1[libsndfile's words]", one.replace(f"={root}", "=ROOT")) for one in found]


def documented() -> dict[str, str]:
    section = (ROOT / "docs/bad_data.md").read_text().split("\n## In a table of your own\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", section, re.MULTILINE))


# what -> the third line of the table
IN_CSV = {
    "no path": ",HELLO,,,train,",
    "empty text": "b.wav,,,,train,",
    "no audio file": "none.wav,HELLO,,,train,",
    "path outside the root": "../b.wav,HELLO,,,train,",
    "URL": "s3://b.wav,HELLO,,,train,",
    "repeated id": "b.wav,HELLO,a,,train,",
    "unreadable audio": "no_audio.wav,HELLO,,,train,",
    "stereo": "stereo.wav,HELLO,,,train,",
    "seconds that are no number": "b.wav,HELLO,,,train,1:30",
    "seconds of another audio": "b.wav,HELLO,,,train,2",
    "no part": "b.wav,HELLO,,,,",
    "part with a slash": "b.wav,HELLO,,,a/b,",
    "text that is not UTF-8": "b.wav,\xc9T\xc9,,,train,",
    "quote that is not closed": 'b.wav,"HELLO,,,train,',
    "quote that is not doubled": 'b.wav,"HE"LLO",,,train,',
    "separator outside quotes": "b.wav,HELLO, WORLD,,,train,",
    "line of another kind": "----------",
}
IN_JSON_LINES = {
    "no JSON": "b.wav",
    "no object": '["b.wav", "HELLO"]',
    "list as a text": '{"path": "b.wav", "text": ["HELLO"]}',
    "half a character": '{"path": "b.wav", "text": "\\ud83d"}',
    "no text": '{"path": "b.wav", "text": null}',
}


@pytest.mark.parametrize("what", [*IN_CSV, *IN_JSON_LINES])
def test_a_line_that_cannot_be_used_is_listed_and_spoils_no_other(what: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a", "b", "c"):
        write_audio(root / f"{name}.wav")
    write_audio(tmp_path / "b.wav")
    (root / "no_audio.wav").write_bytes(b"no audio")
    soundfile.write(root / "stereo.wav", np.full((100, 2), 0.1), RATE)
    if what in IN_CSV:
        lines = [",".join(COLUMNS), "a.wav,ONE,,,train,1.0", IN_CSV[what], "c.wav,TWO,,,train,1"]
        printed = prepared(root, "\n".join(lines).encode("latin-1"))
    else:
        lines = ['{"path": "a.wav", "text": "ONE"}', "", IN_JSON_LINES[what], '{"path": "c.wav", "text": "TWO"}']
        printed = prepared(root, "\n".join(lines), "split.dev=0", "split.test=0", name="corpus.jsonl")
    assert reasons(root) == [documented()[what]]
    assert kept(root) == {"a": "ONE", "c": "TWO"}
    assert re.search(r"train +2 +0 +0\.00 +1 +0 *\n", printed)


def test_every_row_of_the_document_is_a_case_here() -> None:
    assert list(documented()) == [*IN_CSV, *IN_JSON_LINES]


@pytest.mark.parametrize("name", ["corpus.csv", "corpus.TSV", "corpus.jsonl"])
def test_a_text_may_hold_anything(name: str, tmp_path: Path) -> None:
    texts = [
        "A" * 1_000_000,
        'SHE "SAID" SO',
        '"',
        "A, B",
        "A\tB",
        "日本語 é \U0001f600 \u2028 \ufffd",
        "'=1+1",
        "\0 NUL",
    ]
    table = io.StringIO()
    write_row = csv.writer(table, delimiter="\t" if name.endswith("TSV") else ",").writerow
    if name != "corpus.jsonl":
        write_row(["text", "path"])
    for number, text in enumerate(texts):
        write_audio(tmp_path / f"{number}.wav")
        if name == "corpus.jsonl":
            table.write(json.dumps({"text": text, "path": f"{number}.wav"}, ensure_ascii=number % 2 == 0) + "\n")
        else:
            write_row([text, f"{number}.wav"])
    printed = prepared(tmp_path, table.getvalue(), "split.dev=0", "split.test=0", name=name)
    assert list(kept(tmp_path).values()) == texts
    assert "characters outside the alphabet: '\"' 3" in printed


@pytest.mark.parametrize(
    ("suffix", "rate", "how"),
    [
        ("wav", 8_000, {"subtype": "ULAW"}),
        ("wav", 48_000, {"subtype": "PCM_24"}),
        ("flac", 44_100, {}),
        ("ogg", 22_050, {}),
        ("opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ("mp3", 16_000, {}),
        ("mp3", 44_100, {}),
        ("aiff", 11_025, {}),
    ],
)
def test_every_format_and_rate_can_be_trained_on(
    suffix: str, rate: int, how: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_audio(tmp_path / f"root/{name}.{suffix}", rate, 1.3, **how)
    table = "path,text\n" + "".join(f"{name}.{suffix},ab\n" for name in ("a", "b", "c"))
    printed = prepared(tmp_path / "root", table)
    assert reasons(tmp_path / "root") == []
    assert re.search(rf"train +1 +0 +0.00 +0 +{int(rate != RATE)} *\n", printed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["train", *SMALL, "data=table", "data.root=root", "epochs=1", "steps_per_epoch=1", "output_dir=run",
         "tracking.uri=null"],
    )  # fmt: skip
    train.main()
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["test"]["utterances"] == 1


@pytest.mark.parametrize(
    "content",
    [
        b"path,text\r\na.wav,ONE\r\n\r\nb.wav,TWO\r\n",
        b"\xef\xbb\xbfpath,text\na.wav,ONE\nb.wav,TWO",
        b"path,text\ra.wav,ONE\rb.wav,TWO\r",
        b"\n\npath,text\n  \na.wav, ONE \nb.wav,TWO\n\n",
    ],
    ids=["Windows", "byte-order mark", "old Macintosh", "blank lines"],
)
def test_ways_to_write_the_same_table(content: bytes, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav")
    prepared(tmp_path, content, "split.dev=0", "split.test=0")
    assert kept(tmp_path) == {"a": "ONE", "b": "TWO"}
    assert reasons(tmp_path) == []


REFUSED = {
    "another header": (
        "corpus.csv",
        "Path, text\n",
        "no column path and no column text, only 'Path', ' text'; it needs",
    ),
    "no header": ("corpus.csv", "a.wav,HELLO\n", "no column path and no column text, only 'a.wav', 'HELLO'"),
    "semicolons": ("corpus.csv", "path;text\na.wav;HELLO\n", "only 'path;text'; .* a .csv is separated by commas"),
    "UTF-16": ("corpus.csv", "path,text\na.wav,HELLO\n".encode("utf-16"), r"only '\\udcff.*in UTF-8"),
    "column twice": ("corpus.csv", "path,text,text\na.wav,A,B\n", "has several columns text; name each column once"),
    "empty": ("corpus.csv", "", "no column path and no column text, only none"),
    "no row": ("corpus.csv", "path,text\n", "has no row below its first line"),
    "no text in JSON lines": ("corpus.jsonl", '{"path": "a.wav", "txt": "A"}\n', "no column text, only 'path', 'txt'"),
    "spreadsheet": ("corpus.xlsx", "PK", "must be a .csv, .tsv or .jsonl"),
    "nothing usable": (
        "corpus.csv",
        "path,text\na.wav,\n",
        "none of its 1 utterances can be used; the first: .*line 2",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_table_without_what_is_needed_is_refused_with_what_was_found(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name, content, message = REFUSED[what]
    assert re.search(message, refusal(tmp_path, content, capsys, name=name))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("file=none.csv", "file=none.csv cannot be read: .*No such file"),
        ("file=.", "file=.: it must be a .csv"),
        ("root=none", "root=.*/none is no folder; set it to"),
        ("split={dev: 0.6, test: 0.6}", r"split.dev=0.6 and split.test=0.6 leave nothing to train on"),
        ("split.dev=1", "split.dev=1: it must be a number from 0 to below 1"),
        ("seed=-1", "seed=-1: it must be"),
    ],
)
def test_a_mistaken_setting_is_refused(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refusal(tmp_path, "path,text\n", capsys, override, name="corpus.csv"))


def test_a_misspelled_column_is_named_once(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    printed = prepared(tmp_path, "path,text,speakr,sex\na.wav,A,7,f\na.wav,B,7,f\n")
    assert printed.count("ignored are the columns 'sex', 'speakr'") == 1


def make_speakers(root: Path, speakers: int, utterances: int) -> str:
    lines = ["path,text,speaker"]
    for speaker in range(speakers):
        for number in range(utterances):
            write_audio(root / f"{speaker}/{number}.wav", seconds=0.1)
            lines.append(f"{speaker}/{number}.wav,A,{speaker}")
    return "\n".join(lines)


def test_without_parts_whole_speakers_are_dealt_out_by_a_seed(tmp_path: Path) -> None:
    table = make_speakers(tmp_path, speakers=10, utterances=3)

    def dealt(seed: int) -> dict[str, set[str]]:
        prepared(tmp_path, table, f"seed={seed}", "split.dev=0.2")
        return {part: {id.split("/")[0] for id in kept(tmp_path, part)} for part in ("train", "dev", "test")}

    first = dealt(1)
    assert {part: len(speakers) for part, speakers in first.items()} == {"train": 7, "dev": 2, "test": 1}
    assert set.union(*first.values()) == set("0123456789")
    assert dealt(2) != first
    assert dealt(1) == first


def test_too_few_speakers_are_said_and_utterances_dealt_out(tmp_path: Path) -> None:
    printed = prepared(tmp_path, make_speakers(tmp_path, speakers=2, utterances=5))
    assert "Speakers may be in several parts" in printed
    assert [len(kept(tmp_path, part)) for part in ("train", "dev", "test")] == [8, 1, 1]


def test_parts_of_the_table_keep_their_names_and_paths_may_be_absolute(tmp_path: Path) -> None:
    for name in ("a", "sub/b"):
        write_audio(tmp_path / f"{name}.wav")
    prepared(tmp_path, f"part,path,text\nlessons,{tmp_path}/a.wav,A\nexam,sub/../sub/b.wav,B\n")
    assert kept(tmp_path, "lessons") == {f"{tmp_path}/a": "A"}
    assert kept(tmp_path, "exam") == {"sub/../sub/b": "B"}
    assert [one.path for one in read_manifest(str(tmp_path), f"{tmp_path}/manifests", "exam")] == ["sub/b.wav"]


def test_a_relative_root_and_a_table_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "audio/a.wav")
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path, "path,text\na.wav,A\n", "root=audio")
    assert kept(tmp_path / "audio") == {"a": "A"}
