"""An index is read into a quarter of the memory of lhotse's objects, and says the same as lhotse of every utterance."""

import json
import pickle
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import soundfile
from asr.corpora.cuts import load_cuts
from asr.corpora.utterance import IndexedCut
from lhotse import CutSet, MonoCut
from lhotse.serialization import deserialize_item

from asr.corpora.manifest import index_part
from asr.data.audio import load_audio

CUT = IndexedCut("7-1-0001", "HELLO WORLD", "7", "/data/dev-clean/7/1", 16_000, 21_333)


def line(cut: IndexedCut) -> str:
    """As an index has it."""
    return json.dumps(cut.to_dict(), ensure_ascii=False) + "\n"


@pytest.mark.parametrize("text", ["HELLO WORLD", "", "ÄÖÜ ß 'S", "a\u2028b"])
def test_a_line_of_an_index_is_read_as_lhotse_reads_it(text: str) -> None:
    cut = IndexedCut(CUT.id, text, CUT.speaker, CUT.folder, CUT.sampling_rate, CUT.num_samples)
    found = IndexedCut.read(line(cut))
    assert found == cut
    assert found.mono() == deserialize_item(json.loads(line(cut)))
    assert found.mono().to_dict() == json.loads(line(cut))


CHANGES = {
    "field more": ('"text"', '"language": "English", "text"'),
    "escape": ("HELLO", "HELL\\u004f"),
    "start": ('0001", "start": 0.0', '0001", "start": 0.1'),
    "channel": ('"channel": 0, "sup', '"channel": 1, "sup'),
    "other supervision": ('[{"id": "7-1-0001"', '[{"id": "7-1-0002"'),
    "other length": ("21333", "21334"),
    "no samples": ('"num_samples": 21333', '"num_samples": 0'),
    "no rate": ("16000", "0"),
    "rate that is none": ("16000", "1"),
    "huge rate": ("16000", "1" * 5000),
    "length that is no number": ('"duration": 1.3333125', '"duration": NaN'),
    "audio of another name": ("0001.flac", "0002.flac"),
    "audio of another kind": (".flac", ".wav"),
    "digits that are none in JSON": ("21333", "2133\u0663"),
    "zero before a number": ('"duration": 1.3', '"duration": 01.3'),
    "another type": ("MonoCut", "MultiCut"),
    "something after it": ("}\n", "} \n"),
    "no JSON": ("{", ""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_line_of_any_other_form_is_left_to_lhotse(change: str) -> None:
    """And to the checks of what lhotse reads."""
    before, after = CHANGES[change]
    assert before in line(CUT)
    assert IndexedCut.read(line(CUT).replace(before, after)) is None


def test_an_indexed_cut_does_what_a_cut_does(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 8000), 16_000)
    cut = IndexedCut("a", "HELLO", "7", str(tmp_path), 16_000, 8000)
    cut.dataloading_info = {"rank": 0}  # as lhotse's samplers do
    for same in (cut, copy(cut), pickle.loads(pickle.dumps(cut))):
        assert (same.id, same.duration, same.supervisions[0].text, same.recording.id) == ("a", 0.5, "HELLO", "a")
        for rate in (16_000, 8_000):
            assert np.array_equal(load_audio(same, rate), load_audio(cut.mono(), rate))
    with pytest.raises(AttributeError):
        cut.nothing  # noqa: B018


def test_cuts_share_what_is_the_same() -> None:
    one, two = IndexedCut.read(line(CUT)), IndexedCut.read(line(CUT).replace("7-1-0001", "7-1-0002"))
    assert (one.path, two.path) == ("/data/dev-clean/7/1/7-1-0001.flac", "/data/dev-clean/7/1/7-1-0002.flac")
    assert one.folder is two.folder
    assert one.speaker is two.speaker
    assert one.sampling_rate is two.sampling_rate


def test_the_cuts_of_an_index_are_small_and_those_of_other_files_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "dev-clean/7/1"
    folder.mkdir(parents=True)
    soundfile.write(folder / "7-1-0000.flac", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    (folder / "7-1.trans.txt").write_text("7-1-0000 HELLO\n")
    index_part(tmp_path, "dev-clean", tmp_path / "cuts", 1)
    (cut,) = load_cuts("dev-clean", tmp_path, tmp_path / "cuts")
    assert type(cut) is IndexedCut
    mono = cut.mono()
    mono.supervisions[0].language = "English"
    CutSet.from_cuts([mono]).to_file(tmp_path / "mine.jsonl.gz")
    (mine,) = load_cuts(str(tmp_path / "mine.jsonl.gz"), tmp_path, tmp_path)
    assert type(mine) is MonoCut
    assert mine == mono
