"""python -m asr.lm: a language model of a text, of transcripts, or of another ARPA file; and a user's mistakes."""

import gzip
import sys

import pytest
from conftest import COMMANDS

from asr.decoding.arpa import read_words
from asr.decoding.ngram import estimate, write_arpa

TEXT = "The cat sat.\n\nA cat, the dog's\nthe dog sat\nTHE CAT SAT\na dog ran\n"


@pytest.fixture
def lm(monkeypatch, capsys, tmp_path):
    """What the command prints, as typed with these settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)

    def call(*settings):
        monkeypatch.setattr(sys, "argv", ["asr.lm", "output=made/lm.arpa", *settings])
        COMMANDS["lm"]()
        return capsys.readouterr().out

    return call


def words(tmp_path):
    return {word for _, word in read_words(tmp_path / "made/lm.arpa")} - {"<s>", "</s>", "<unk>"}


def test_a_text_makes_a_model_of_its_normalised_words(lm, tmp_path):
    out = lm("text=text.txt")
    assert words(tmp_path) == {"the", "cat", "sat", "a", "dogs", "dog", "ran"}
    assert "5 sentences, 16 words, 7 distinct words kept" in out
    assert "too small to estimate the discounts of order 3" in out
    assert "decode=beam_lm decode.lm=made/lm.arpa" in out


def test_heldout_text_has_its_perplexity_and_unknown_words_counted(lm, tmp_path):
    (tmp_path / "text.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "other.txt").write_text("the cat sat\nthe bird sat\n")
    lines = {line.rstrip().rsplit("  ", 1)[0].strip(): line for line in
             lm("text=text.gz", "heldout=other.txt", "order=2").splitlines()}  # fmt: skip
    assert "50.00%" in lines["held-out sentences that are in the training text"]
    assert "1 (16.67%)" in lines["out of vocabulary"]
    assert "perplexity" in lines


def test_training_transcripts_make_the_model_and_dev_scores_it(lm, corpus, tmp_path):
    out = lm("data=clean", f"data.root={corpus}")
    assert words(tmp_path) <= {"abba", "dad", "cab", "bad", "add", "facade", "bead", "face"}
    assert "48 sentences" in out
    assert "held-out sentences                6" in out


def test_a_published_model_is_downloaded_resumed_and_written_in_the_alphabet(lm, site, tmp_path):
    write_arpa(estimate(["THE CAT SAT", "A CAT DON'T"] * 50, 3, [0], 1, None), tmp_path / "upper.arpa")
    packed = gzip.compress((tmp_path / "upper.arpa").read_bytes())
    site.files["3-gram.pruned.1e-7.arpa.gz"] = packed
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/3-gram.pruned.1e-7.arpa.gz.partial").write_bytes(packed[:100])
    out = lm("arpa=3-gram.pruned.1e-7", f"base_url={site.url}", "archives=archives", "heldout=text.txt")
    assert site.ranges == ["bytes=100-"]
    assert words(tmp_path) == {"the", "cat", "sat", "a", "dont"}
    assert "out of vocabulary" in out


MISTAKES = {
    "nothing": ([], "there is nothing to make a model of"),
    "two sources": (["text=text.txt", "arpa=4-gram"], "leave one out"),
    "missing file": (["text=none.txt"], "none.txt cannot be read: No such file or directory"),
    "folder": (["text=."], "cannot be read: Is a directory"),
    "empty file": (["text=empty"], "none of its 0 lines holds a character of the alphabet"),
    "nothing but digits": (["text=digits"], "none of its 2 lines holds a character of the alphabet"),
    "not UTF-8": (["text=latin1"], "latin1: line 2 is not UTF-8"),
    "damaged gzip": (["text=cut.gz"], "cut.gz is damaged after line"),
    "missing heldout": (["text=text.txt", "heldout=none.txt"], "none.txt cannot be read"),
    "order 0": (["text=text.txt", "order=0"], "order=0: it must be a whole number from 2 to 6"),
    "order 7": (["text=text.txt", "order=7"], "order=7: it must be a whole number from 2 to 6"),
    "prune a number": (["text=text.txt", "prune=1"], "prune=1: it must be a list"),
    "prune words": (["text=text.txt", "prune=[1]"], "the first 0"),
    "prune falling": (["text=text.txt", "prune=[0,2,1]"], "none smaller"),
    "prune too long": (["text=text.txt", "prune=[0,0,0,1]"], "has more numbers than order=3"),
    "no manifests": (["data=clean", "data.root=none"], "has no manifest none/manifests/dev-clean.parquet"),
    "arpa that is text": (["arpa=text.txt"], "text.txt is no ARPA file"),
    "no such address": (["arpa=4-gram", "base_url=nowhere"], "put the file at outputs/lm/archives/4-gram.arpa.gz by"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_paragraph_and_writes_nothing(what, lm, tmp_path, capsys):
    (tmp_path / "empty").touch()
    (tmp_path / "digits").write_text("1 2\n3\n")
    (tmp_path / "latin1").write_bytes("a\nl\xe0\n".encode("latin1"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(TEXT.encode() * 100)[:-20])
    settings, message = MISTAKES[what]
    with pytest.raises(SystemExit, match="2"):
        lm(*settings)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "made/lm.arpa").exists()
