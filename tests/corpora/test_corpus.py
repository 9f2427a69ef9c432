"""Loading and selecting cuts: nothing unusable gets into a training unnoticed, and kept and dropped are all."""

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from asr.corpora.cuts import load_cuts
from lhotse import CutSet, MonoCut, MultiCut, Recording, RecordingSet, SupervisionSegment
from lhotse.utils import fastcopy

from asr import cli
from asr.corpora.manifest import index_part
from asr.data.audio import load_audio
from asr.errors import InputError

Span = tuple[float, float, str | None]


def make_cut(folder: Path, id: str, seconds: float = 1.0, spans: list[Span] | None = None) -> MonoCut:
    """A cut of noise; spans: (start, seconds, text) of its supervisions."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{id}.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000)), 16_000)
    supervisions = [
        SupervisionSegment(id if spans is None else f"{id}-{number}", id, start, length, 0, text, speaker="7")
        for number, (start, length, text) in enumerate([(0.0, seconds, "HELLO")] if spans is None else spans)
    ]
    return MonoCut(id, 0.0, seconds, 0, supervisions, recording=Recording.from_file(path, recording_id=id))


def load(folder: Path, *cuts: object, name: str = "cuts.jsonl.gz") -> CutSet:
    """Writes the cuts to a file and loads that."""
    CutSet.from_cuts(cuts).to_file(folder / name)
    return load_cuts(str(folder / name), folder / "unused root", folder / "unused manifests")


def make_part(root: Path) -> Path:
    """An index, in root/cuts, of a part with the utterances 7-1-0000 and 7-1-0001."""
    folder = root / "dev-clean/7/1"
    for number in range(2):
        make_cut(folder, f"7-1-{number:04d}")
    (folder / "7-1.trans.txt").write_text("7-1-0000 HELLO\n7-1-0001 WORLD\n")
    index_part(root, "dev-clean", root / "cuts", 1)
    return root / "cuts"


def test_a_part_is_loaded_from_its_index(tmp_path: Path) -> None:
    cuts = load_cuts("dev-clean", tmp_path, make_part(tmp_path))
    assert not cuts.is_lazy
    assert [(cut.id, cut.supervisions[0].text) for cut in cuts] == [("7-1-0000", "HELLO"), ("7-1-0001", "WORLD")]


def test_a_part_without_an_index_names_the_command_that_makes_it(tmp_path: Path) -> None:
    manifests = make_part(tmp_path)
    command = re.escape(f"python -m asr.prepare librispeech root={tmp_path} parts=[test-clean]")
    with pytest.raises(InputError, match=f"part 'test-clean' .*indexed there: dev-clean.*; make it: {command}$"):
        load_cuts("test-clean", tmp_path, manifests)


@pytest.mark.parametrize(
    ("root", "there", "part", "command"),
    [
        ("synthetic", [], "dev-clean", "synthetic"),
        ("LibriSpeech", [], "dev-clean", "librispeech"),
        ("mini_LibriSpeech", [], "dev-clean-2", "mini_librispeech"),
        ("mini_LibriSpeech", ["dev-clean-2/"], "test-clean", "librispeech"),
        ("mine", ["dev-clean/synthetic.json"], "test-clean", "synthetic"),
        ("mine", ["dev-clean/"], "test-clean", "librispeech"),
        ("mine", ["spoken/"], "spoken", "librispeech"),
        ("mine", [], "test-clean", "CORPUS"),
    ],
)
def test_a_root_without_any_index_names_the_command_of_its_own_corpus(
    root: str, there: list[str], part: str, command: str, tmp_path: Path
) -> None:
    """Whatever the settings were: every experiment can be run on every corpus."""
    for name in there:
        path = tmp_path / root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("{}")
    place = tmp_path / root
    ways = "" if command != "CORPUS" else " (CORPUS is librispeech, mini_librispeech or synthetic)"
    told = re.escape(f"make it: python -m asr.prepare {command} root={place} parts=[{part}]{ways}")
    told += "" if there else ".*bash scripts/quickstart.sh makes a small one.*"
    with pytest.raises(InputError, match=f"indexed there: nothing.*{told}$"):
        load_cuts(part, place, place / "cuts")
    with pytest.raises(InputError, match=re.escape(f"parts=[{part}] manifests={tmp_path}/elsewhere{ways}")):
        load_cuts(part, place, tmp_path / "elsewhere")


def test_every_corpus_that_can_be_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_cuts("dev-clean", tmp_path / "mine", tmp_path / "mine/cuts")
    for path in (cli.CONF / "corpus").glob("*.yaml"):
        assert path.stem in str(error.value)


def test_an_index_is_refused_for_a_root_that_is_gone_or_holds_no_audio(tmp_path: Path) -> None:
    """Else a changed `root` would go unnoticed, and the old audio be trained on."""
    manifests = make_part(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="does not exist; set it to the folder that holds dev-clean"):
        load_cuts("dev-clean", tmp_path / "c", manifests)
    with pytest.raises(InputError, match=f"2 audio files that are not there, the first {tmp_path}/b/dev-clean/7/1/7-"):
        load_cuts("dev-clean", tmp_path / "b", manifests)


@pytest.mark.parametrize("how", ["moved", "copied", "linked"])
def test_a_corpus_that_is_moved_copied_or_linked_is_read_at_its_new_place(how: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new place"
    make_part(old)
    if how == "linked":
        new.symlink_to(old)
    else:
        shutil.copytree(old, new) if how == "copied" else old.rename(new)
    cuts = load_cuts("dev-clean", new, new / "cuts")
    for cut in cuts:
        assert Path(cut.recording.sources[0].source).is_relative_to(new)
        assert len(load_audio(cut, 16_000)) == 16_000


def test_unusual_lines_of_an_index_move_with_it(tmp_path: Path) -> None:
    """JSON escapes the quotation mark, and lhotse reads such a line."""
    folder = tmp_path / "old/dev-clean/7/1"
    make_cut(folder, "7-1-0000")
    (folder / "7-1.trans.txt").write_text('7-1-0000 "HELLO"\n')
    index_part(tmp_path / "old", "dev-clean", tmp_path / "old/cuts", 1)
    (tmp_path / "old").rename(tmp_path / "new")
    (cut,) = load_cuts("dev-clean", tmp_path / "new", tmp_path / "new/cuts")
    assert cut.supervisions[0].text == '"HELLO"'
    assert len(load_audio(cut, 16_000)) == 16_000


def test_the_files_of_an_index_name_no_root(tmp_path: Path) -> None:
    """So that two copies of a corpus have the same index."""
    manifests = make_part(tmp_path)
    make_cut(tmp_path / "dev-clean/7/1", "7-1-0002")
    (tmp_path / "dev-clean/7/1/7-1-0001.flac").write_bytes(b"no audio")
    index_part(tmp_path, "dev-clean", manifests, 1)
    files = {path.name: path.read_bytes() for path in manifests.iterdir()}
    assert len(files) == 3
    files["dev-clean.jsonl.gz"] = gzip.decompress(files["dev-clean.jsonl.gz"])
    assert not any(str(tmp_path).encode() in content for content in files.values())


def test_an_index_can_be_made_a_cut_set_of_ones_own(tmp_path: Path) -> None:
    index = CutSet.from_file(make_part(tmp_path) / "dev-clean.jsonl.gz")
    with pytest.raises(InputError, match=r"2 audio files .* dev-clean/7/1/7-1-0000\.flac in the working directory"):
        load(tmp_path, *index)
    assert len(load(tmp_path, *index.with_recording_path_prefix(tmp_path))) == 2


def test_an_index_that_an_older_version_made_is_refused(tmp_path: Path) -> None:
    """Its paths are absolute: a copy of a corpus would be trained on the audio of the original."""
    manifests = make_part(tmp_path)
    lines = gzip.decompress((manifests / "dev-clean.jsonl.gz").read_bytes())
    lines = lines.replace(b'"source": "', f'"source": "{tmp_path}/'.encode())
    (manifests / "dev-clean.jsonl.gz").write_bytes(gzip.compress(lines))
    stamp = json.loads((manifests / "dev-clean.stamp.json").read_text())
    stamp.pop("version", None)
    (manifests / "dev-clean.stamp.json").write_text(json.dumps(stamp))
    command = re.escape(f"python -m asr.prepare librispeech root={tmp_path} parts=[dev-clean]")
    with pytest.raises(InputError, match=f"dev-clean.jsonl.gz was not made by this version .*: {command}"):
        load_cuts("dev-clean", tmp_path, manifests)
    index_part(tmp_path, "dev-clean", manifests, 1)
    assert len(load_cuts("dev-clean", tmp_path, manifests)) == 2


def test_an_index_serves_its_root_under_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = make_part(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for root in ("link", "a", str(tmp_path / "link")):
        assert len(load_cuts("dev-clean", Path(root), manifests)) == 2


def test_missing_audio_is_counted_and_the_first_file_named(tmp_path: Path) -> None:
    manifests = make_part(tmp_path)
    first = tmp_path / "dev-clean/7/1/7-1-0000.flac"
    first.unlink()
    with pytest.raises(InputError, match=f"names 1 audio files that are not there, the first {first};"):
        load_cuts("dev-clean", tmp_path, manifests)
    first.parent.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=f"names 2 audio files that are not there, the first {first};"):
        load_cuts("dev-clean", tmp_path, manifests)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "cuts.json", "cuts.yaml"])
def test_any_file_of_lhotse_cuts_is_loaded(name: str, tmp_path: Path) -> None:
    assert [cut.id for cut in load(tmp_path, make_cut(tmp_path, "a"), make_cut(tmp_path, "b"), name=name)] == ["a", "b"]


def test_a_cut_with_several_supervisions_becomes_one_for_each(tmp_path: Path) -> None:
    long = make_cut(tmp_path, "long", 3.0, [(0.0, 1.0, "ONE"), (0.5, 1.5, "TWO"), (2.5, 0.5, "THREE")])
    cuts = load(tmp_path, make_cut(tmp_path, "a"), long)
    assert [(cut.id, cut.start, cut.duration, [s.text for s in cut.supervisions]) for cut in cuts] == [
        ("a", 0.0, 1.0, ["HELLO"]),
        ("long-0", 0.0, 1.0, ["ONE"]),
        ("long-1", 0.5, 1.5, ["TWO"]),
        ("long-2", 2.5, 0.5, ["THREE"]),
    ]


def test_unusable_cuts_are_refused_by_name_and_number(tmp_path: Path) -> None:
    good = make_cut(tmp_path, "good")
    multi = MultiCut("both", 0.0, 1.0, [0, 1], good.supervisions, recording=good.recording)
    for cuts, message in (
        ([good, multi], "cut both is a MultiCut, must be a MonoCut"),
        ([good, fastcopy(good, id="bare", recording=None, features=None)], "cut bare has no recording"),
        ([make_cut(tmp_path, "mute", spans=[])], "cut mute has no supervision;"),
        ([make_cut(tmp_path, "untold", spans=[(0.0, 1.0, None)])], "cut untold has a supervision without a text"),
        ([fastcopy(good, start=0.5)], r"cut good ends at 1.500 s, past the end of its recording of 1.000 s"),
        ([fastcopy(good, start=s) for s in (1, 2, 3)], r"cut good ends at 2.* \(2 more of 3 cuts cannot be used\)"),
        ([good, good], "the id good stands more than once"),
    ):
        with pytest.raises(InputError, match=message):
            load(tmp_path, *cuts)


def test_a_file_that_holds_no_cuts_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"{", b'{"id": 1}\n', b"\x00\xff", b"[]"):
        for name in ("a.jsonl", "a.json", "a.jsonl.gz"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match=f"{tmp_path}/{name} (cannot be read|holds nothing)"):
                load_cuts(str(tmp_path / name), tmp_path, tmp_path)
    recording = make_cut(tmp_path, "a").recording
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl")
    with pytest.raises(InputError, match="holds items of type Recording, must hold cuts"):
        load_cuts(str(tmp_path / "recordings.jsonl"), tmp_path, tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        load_cuts(str(tmp_path / "none.jsonl.gz"), tmp_path, tmp_path)


def test_an_index_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    manifests = make_part(tmp_path)
    path = manifests / "dev-clean.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"cannot be read as a lhotse CutSet.*: .* python -m asr.prepare"):
        load_cuts("dev-clean", tmp_path, manifests)
