"""Beam search against the sum over all paths, with and without a model and a list of words; files that it refuses."""

import itertools
import math
import re
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir

from asr.cli import CONF
from asr.config.build import build_decoder
from asr.data.text import Alphabet, frames_needed
from asr.decoding.beam import BeamSearch
from asr.decoding.greedy import Greedy
from asr.errors import DivergedError, InputError

AB = Alphabet(" ab")
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.5\t<unk>\t0
-99\t<s>\t-0.4
-0.9\t</s>
-0.5\taa\t-0.3
-0.7\tb\t-0.2
-1.1\tab\t-0.1

\\2-grams:
-0.2\t<s> aa
-0.6\taa b
-0.3\tb </s>
-0.4\tab aa

\\end\\
"""
UNIGRAMS = {"<unk>": (-1.5, 0), "<s>": (-99, -0.4), "</s>": (-0.9, 0), "aa": (-0.5, -0.3), "b": (-0.7, -0.2),
            "ab": (-1.1, -0.1)}  # fmt: skip
BIGRAMS = {("<s>", "aa"): -0.2, ("aa", "b"): -0.6, ("b", "</s>"): -0.3, ("ab", "aa"): -0.4}
WIDE = {"beam": 10_000, "threshold": 1e4, "symbols": 4, "n_best": 10_000}


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return str(path)


def lm_score(text):
    """The natural logarithm of a text's probability, by the definition of backoff."""
    known = [word if word in UNIGRAMS else "<unk>" for word in ["<s>", *text.split(), "</s>"]]
    pairs = itertools.pairwise(known)
    return math.log(10) * sum(BIGRAMS.get(p, UNIGRAMS[p[0]][1] + UNIGRAMS[p[1]][0]) for p in pairs)


def all_texts(log_probs):
    """{text: log of the sum of the probabilities of all paths that give it}."""
    sums = {}
    frames, classes = log_probs.shape
    for path in itertools.product(range(classes), repeat=frames):
        merged = [symbol for symbol, _ in itertools.groupby(path) if symbol]
        text = " ".join(AB.decode(merged).split())
        probability = math.exp(sum(float(log_probs[t, symbol]) for t, symbol in enumerate(path)))
        sums[text] = sums.get(text, 0.0) + probability
    return {text: math.log(total) for text, total in sums.items()}


def outputs(seed, frames=5):
    return (1.5 * torch.randn(frames, AB.size, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def decode(log_probs, **settings):
    (hypotheses,) = BeamSearch(AB, **settings)(log_probs[None], torch.tensor([len(log_probs)]))
    return hypotheses


def assert_same(hypotheses, expected):
    assert [one.score for one in hypotheses] == sorted((one.score for one in hypotheses), reverse=True)
    assert {one.text: one.score for one in hypotheses} == pytest.approx(expected, abs=1e-3)
    assert len(hypotheses) == len(expected) > 1


@pytest.mark.parametrize("seed", range(4))
def test_without_a_model_scores_are_those_of_all_paths(seed):
    expected = all_texts(outputs(seed))
    assert {"aa", "a b", ""} < expected.keys()
    assert_same(decode(outputs(seed), **WIDE), expected)


@pytest.mark.parametrize("seed", range(4))
def test_with_a_model_and_any_words(seed, arpa):
    expected = {
        text: score
        + 0.7 * lm_score(text)
        + 0.3 * len(text.split())
        - 0.9 * sum(word not in UNIGRAMS for word in text.split())
        for text, score in all_texts(outputs(seed)).items()
    }
    assert_same(decode(outputs(seed), **WIDE, lm=arpa, lm_weight=0.7, word_score=0.3, unknown_score=-0.9), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
def test_with_a_list_of_words(seed, lm_weight, arpa, tmp_path):
    words = ["aa", "b", "ab", "bb"]
    (tmp_path / "words.txt").write_text("\n".join([*words, "", "b"]))
    expected = {
        text: score + lm_weight * lm_score(text) + 0.3 * len(text.split())
        for text, score in all_texts(outputs(seed)).items()
        if set(text.split()) <= set(words)
    }
    settings = {"lm": arpa, "lm_weight": lm_weight} if lm_weight else {}
    found = decode(outputs(seed), **WIDE, lexicon=str(tmp_path / "words.txt"), word_score=0.3, **settings)
    assert_same([one for one in found if one.score > -1000], expected)


def test_the_words_of_the_model_are_the_list(arpa):
    found = decode(outputs(1), **WIDE, lm=arpa, lm_weight=0.1, lexicon="lm")
    assert len(found) > 5
    assert {word for one in found for word in one.text.split()} == {"aa", "b", "ab"}


def test_padding_is_not_decoded_and_every_text_can_be_aligned(arpa):
    batch = torch.stack([outputs(seed, frames=9) for seed in range(20)])
    lengths = torch.arange(20) % 9 + 1
    decoders = (BeamSearch(AB, n_best=5), BeamSearch(AB, n_best=5, lm=arpa, lexicon="lm", lm_weight=0.5))
    for decoder in decoders:
        found = decoder(batch, lengths)
        for own, length, hypotheses in zip(batch, lengths, found, strict=True):
            assert hypotheses == decoder(own[None, :length], length[None])[0]
            assert 1 <= len(hypotheses) <= 5
            for text, _ in hypotheses:
                assert text == " ".join(text.split())
                assert frames_needed(text) <= length


def test_a_sure_model_is_decoded_as_greedily():
    ids = torch.tensor([AB.encode("ab a bb"), AB.encode("b ab ab")])
    spread = torch.zeros(2, 14, dtype=torch.long)
    spread[:, ::2] = ids
    log_probs = (20 * torch.nn.functional.one_hot(spread, 4).float()).log_softmax(-1)
    texts = [[found[0].text for found in d(log_probs, torch.tensor([14, 14]))] for d in (BeamSearch(AB), Greedy(AB))]
    assert texts[0] == texts[1] == ["ab a bb", "b ab ab"]


def test_a_narrow_beam_is_never_better_than_a_wide_one(arpa):
    for seed in range(10):
        log_probs = outputs(seed, frames=30)
        wide, narrow = (
            decode(log_probs, beam=beam, lm=arpa, lm_weight=0.5, lexicon="lm")[0].score for beam in (200, 1)
        )
        assert narrow <= wide + 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "decode.beam=0: it must be a whole number of at least 1"),
        ({"lm": "nowhere.arpa"}, "nowhere.arpa cannot be read"),
        ({"lexicon": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"lexicon": "lm"}, "there is no model to take words from"),
    ],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        BeamSearch(AB, **settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: write one word a line"),
        ("\n \n", "is empty: write one word a line"),
        ("ab\nbeé\n", "1 of 2 lines are not one word in the alphabet"),
        ("AB\n", "write one word a line, in lower case"),
        ("ab a b |\n", "not one word"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_word_list_that_cannot_be_used(content, message, tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        BeamSearch(AB, lexicon=str(path))


DAMAGED = {
    "upper case": (re.sub(r"\b(aa|ab|b)\b", lambda word: word[0].upper(), ARPA), "the alphabet ' ab'"),
    "Cyrillic": (
        re.sub(r"\b(aa|ab|b)\b", lambda word: word[0].translate({97: "ж", 98: "ш"}), ARPA),
        "the alphabet ' ab'",
    ),
    "empty": ("", "no ARPA"),
    "not an ARPA": ("hello\n", "no ARPA"),
    "cut off": (ARPA[:150], "damaged"),
    "without its end": (ARPA.replace("\\end\\\n", ""), "damaged"),
    "a number that is none": (ARPA.replace("-0.6\taa", "x\taa"), "cannot load it"),
    "an unknown word in a pair": (ARPA.replace("aa b\n", "aa q\n"), "cannot load it"),
    "too many": (ARPA.replace("ngram 2=4", "ngram 2=900000000000"), "cannot load it"),
    "a binary file": (
        "mmap lm http://kheafield.com/code format version 5\n\0" + "x" * 90,
        "the words of KenLM's binary",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_model_that_cannot_be_used(name, tmp_path):
    content, message = DAMAGED[name]
    path = tmp_path / "lm.arpa"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        BeamSearch(AB, lm=str(path))


def test_a_damaged_binary_file_is_refused(tmp_path):
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + b"x" * 500)
    (tmp_path / "words.txt").write_text("ab\n")
    with pytest.raises(InputError, match="KenLM cannot load it"):
        BeamSearch(AB, lm=str(tmp_path / "lm.bin"), lexicon=str(tmp_path / "words.txt"))


def test_a_model_that_has_diverged_is_no_input():
    with pytest.raises(DivergedError, match="diverged"):
        decode(torch.full((3, 4), math.nan))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("evaluate", overrides).decode


def test_the_group_builds_both(arpa):
    assert build_decoder(composed("decode=beam"), AB).lexicon is None
    assert build_decoder(composed("decode=beam_lm", f"decode.lm={arpa}"), AB).lexicon == "lm"
    with pytest.raises(InputError, match=r"decode\.lm is not given"):
        build_decoder(composed("decode=beam_lm"), AB)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "asr.decoding.beam")
    monkeypatch.delattr("asr.decoding.beam")
    with pytest.raises(InputError, match=r"pip install -e '\.\[decode\]'"):
        build_decoder(composed("decode=beam"), AB)
