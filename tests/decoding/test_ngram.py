"""Language models: probabilities as in lmplz and by the formulas, which sum to one; ARPA files good and bad."""

import gzip
import itertools
import random
from collections import Counter, defaultdict
from math import log10

import pytest

from asr.data.text import Alphabet
from asr.decoding.arpa import normalize_arpa, read_arpa, read_words, score_text, validate_arpa
from asr.decoding.ngram import estimate, write_arpa
from asr.errors import InputError

ALPHABET = Alphabet(" abcdefghijklmnopqrstuvwxyz")
PUBLISHED = ["i went to", "i go to", "you went to", "you go to", "joe went to", "joe go to"] + 2 * ["anna went ski"]
WORDS = ["a", "b", "c", "d", "e", "f", "g"]


def random_text(sentences=300):
    rng = random.Random(1)
    lengths = (rng.randint(1, 9) for _ in range(sentences))
    return [" ".join(rng.choices(WORDS, [9, 7, 5, 3, 2, 1, 0.05], k=length)) for length in lengths]


def made(path, sentences, order=3, prune=(0,), min_count=1, max_words=None):
    write_arpa(estimate(sentences, order, prune, min_count, max_words), path)
    return path


def read(path):
    """{words: log10 of the probability}, {words: backoff weight}"""
    probabilities, backoffs = {}, {}
    for order, fields in read_arpa(path):
        if order:
            words = tuple(fields[1 : order + 1])
            probabilities[words] = float(fields[0])
            backoffs[words] = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
    return probabilities, backoffs


def score(model, history, word):
    """log10 P(word | history), by the rule of backoff models."""
    probabilities, backoffs = model
    if (*history, word) in probabilities:
        return probabilities[(*history, word)]
    return backoffs.get(history, 0.0) + score(model, history[1:], word)


def kneser_ney(sentences, order):
    """{words: probability} of all n-grams by Chen and Goodman's formulas, an order at a time, with plain dicts."""
    occurrences = Counter()
    for sentence in sentences:
        words = ("<s>", *sentence.split(), "</s>")
        for n in range(1, order + 1):
            occurrences.update(words[i : i + n] for i in range(len(words) - n + 1))
    vocabulary = {"<unk>", "</s>"} | {word for sentence in sentences for word in sentence.split()}
    result = {(): {word: 1 / len(vocabulary) for word in vocabulary}}
    for n in range(1, order + 1):
        grams = [gram for gram in occurrences if len(gram) == n and gram != ("<s>",)]
        contexts = Counter(gram[1:] for gram in occurrences if len(gram) == n + 1)
        count = {g: occurrences[g] if n == order or g[0] == "<s>" else contexts[g] for g in grams}
        n1, n2, n3, n4 = (list(count.values()).count(i) for i in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        discount = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
        followers = defaultdict(dict)
        for gram in grams:
            followers[gram[:-1]][gram[-1]] = count[gram]
        for history, counts in followers.items():
            total = sum(counts.values())
            left = sum(discount[min(c, 3)] for c in counts.values()) / total
            lower = result[history[1:]] if history else result[()]
            result[history] = {
                word: (counts[word] - discount[min(counts[word], 3)] if word in counts else 0) / total
                + left * lower[word]
                for word in vocabulary
            }
    return result


def test_probabilities_are_those_of_the_formulas(tmp_path):
    rng = random.Random(1)
    weights = [1 / rank for rank in range(1, 601)]
    text = [" ".join(rng.choices([f"w{n}" for n in range(600)], weights, k=rng.randint(1, 8))) for _ in range(120)]
    assert all(order.estimated for order in estimate(text, 3, [0], 1, None).orders)
    model = read(made(tmp_path / "a.arpa", text, order=3))
    expected = kneser_ney(text, 3)
    assert len(expected) > 200
    for history, words in list(expected.items())[::5]:
        for word, probability in words.items():
            assert score(model, history, word) == pytest.approx(log10(probability), abs=1e-5), (history, word)


def test_the_published_example(tmp_path):
    """The text of kpu/kenlm#405 and lmplz's result, whose unigrams have another discount by a known error (#427)."""
    probabilities, backoffs = read(made(tmp_path / "a.arpa", PUBLISHED, order=2))
    weights = {"<s>": -0.059768215, "i": -0.5228788, "went": -0.022929981, "to": -0.30103, "go": 0, "ski": -0.059768215}
    for word, weight in weights.items():
        assert backoffs[(word,)] == pytest.approx(weight, abs=1e-6)
    lmplz = {"to </s>": (-0.26962152, -1.1249387), "<s> i": (-0.9649993, -1.0579919), "i went": (-0.383262, -0.6726411),
             "anna went": (-0.50341624, -0.6726411), "went ski": (-0.87150836, -1.0579919)}  # fmt: skip
    for words, (bigram, unigram) in lmplz.items():
        first, second = words.split()
        without_backoff = 10**bigram - 10 ** (backoffs[(first,)] + unigram)
        ours = 10 ** probabilities[(first, second)] - 10 ** (backoffs[(first,)] + probabilities[(second,)])
        assert ours == pytest.approx(without_backoff, abs=1e-6), words
    # By hand: </s> and "to" follow 2 different words, "went" 4, "go" 3, and 5 others 1: Y = 5/9.
    d1, d2, d3 = 5 / 9, 2 - 3 * 5 / 9 / 2, 3 - 4 * 5 / 9
    unseen = (5 * d1 + 2 * d2 + 2 * d3) / 16 / 10
    assert probabilities[("<unk>",)] == pytest.approx(log10(unseen), abs=1e-6)
    assert probabilities[("went",)] == pytest.approx(log10((4 - d3) / 16 + unseen), abs=1e-6)
    assert probabilities[("joe",)] == pytest.approx(log10((1 - d1) / 16 + unseen), abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"order": 5}, {"prune": [0, 0, 2]}, {"prune": [0, 1]}, {"min_count": 20}, {"max_words": 3, "order": 4}],
    ids=str,
)
def test_probabilities_sum_to_one_after_seen_and_unseen_histories(settings, tmp_path):
    model = read(made(tmp_path / "a.arpa", random_text(), **settings))
    vocabulary = [words[0] for words in model[0] if len(words) == 1 and words[0] != "<s>"]
    assert {"<unk>", "</s>", "a"} <= set(vocabulary)
    histories = [*itertools.product(["<s>", *vocabulary], repeat=2), (), ("a",), ("<s>",), ("never", "a")]
    assert not {history for history in histories if len(history) == 2} <= set(model[0])
    for history in histories:
        assert sum(10 ** score(model, history, word) for word in vocabulary) == pytest.approx(1, abs=1e-5), history


def test_rare_words_count_as_unknown_ones_and_the_most_frequent_are_kept(tmp_path):
    text = random_text()
    words = {word for _, word in read_words(made(tmp_path / "a.arpa", text, max_words=2))}
    assert words == {"<unk>", "<s>", "</s>", "a", "b"}
    rare = {word for word, count in Counter(" ".join(text).split()).items() if count < 50}
    words = {word for _, word in read_words(made(tmp_path / "b.arpa", text, min_count=50))}
    assert 0 < len(rare) < 7
    assert words == {"<unk>", "<s>", "</s>", *WORDS} - rare


def test_pruned_ngrams_are_left_out_and_no_others(tmp_path):
    text = random_text()
    everything, pruned = (read(made(tmp_path / "a.arpa", text, prune=prune))[0] for prune in ([0], [0, 1, 2]))
    occurrences = Counter()
    for sentence in text:
        words = ("<s>", *sentence.split(), "</s>")
        for n in (1, 2, 3):
            occurrences.update(words[i : i + n] for i in range(len(words) - n + 1))
    assert pruned.keys() < everything.keys()
    assert everything.keys() - pruned.keys() == {g for g in everything if len(g) > 1 and occurrences[g] < len(g)}


def test_kenlm_loads_it_and_scores_as_the_rule_says(tmp_path):
    path = made(tmp_path / "a.arpa", random_text(), order=4)
    heldout = ["a b c a a", "zebra a b", "g g g g g g"]
    model = read(path)
    logs = []
    for sentence in heldout:
        words = ["<s>", *sentence.replace("zebra", "<unk>").split(), "</s>"]
        logs += [score(model, tuple(words[max(0, i - 3) : i]), words[i]) for i in range(1, len(words))]
    result = score_text(path, heldout)
    assert (result.sentences, result.words, result.unknown) == (3, 14, 1)
    assert result.perplexity == pytest.approx(10 ** (-sum(logs) / 17), rel=1e-4)
    known = sum(logs) - score(model, ("<s>",), "<unk>")
    assert result.known_perplexity == pytest.approx(10 ** (-known / 16), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (["a", "b"], {"order": 4}, "order=4: no sentence has 2 words"),
        (["a b"], {"prune": [0, 5]}, r"prune=\[0, 5\] leaves no 2-gram of 3: the most frequent one occurs 1 times"),
    ],
)
def test_a_text_too_small_for_the_settings_is_refused(text, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        made(tmp_path / "a.arpa", text, **settings)
    assert not (tmp_path / "a.arpa").exists()


# Of words that differ for the alphabet only in what it drops, and of three that become the same.
FOREIGN = """\\data\\
ngram 1=8
ngram 2=3

\\1-grams:
-1.0\t<UNK>
-99\t<s>\t-0.3
-0.7\t</s>
-0.8\tWELL\t-0.2
-1.1\tWE'LL\t-0.1
-0.9\tDON'T\t-0.1
-1.5\tdont
-0.6\tGO

\\2-grams:
-0.1\t<s> DON'T
-0.2\tWE'LL GO
-0.3\tdont </s>

\\end\\
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_another_model_is_written_in_the_alphabet(compressed, tmp_path):
    source = tmp_path / "foreign"
    source.write_bytes(gzip.compress(FOREIGN.encode()) if compressed else FOREIGN.encode())
    assert normalize_arpa(source, ALPHABET, tmp_path / "a.arpa") == [8, 3]
    words = [word for _, word in read_words(tmp_path / "a.arpa")]
    assert words == ["<unk>", "<s>", "</s>", "well", "WE'LL", "dont", "DON'T", "go"]
    assert set(read(tmp_path / "a.arpa")[0]) >= {("<s>", "dont"), ("WE'LL", "go"), ("DON'T", "</s>")}
    assert validate_arpa(tmp_path / "a.arpa", ALPHABET) == ["well", "dont", "go"]
    assert score_text(tmp_path / "a.arpa", ["go well", "dont"]).unknown == 0


def test_a_model_of_another_alphabet_is_refused(tmp_path):
    (tmp_path / "a.arpa").write_text(FOREIGN)
    with pytest.raises(InputError, match=r"can write 1 of its 5 words, and not 'WELL'.*asr\.lm arpa="):
        validate_arpa(tmp_path / "a.arpa", ALPHABET)


DAMAGE = {
    "empty": ("", "is no ARPA file"),
    "text": ("some sentences\n", "is no ARPA file"),
    "cut off": (FOREIGN[: FOREIGN.index("-0.2\tWE'LL GO")], "it ends before"),
    "too few unigrams": (FOREIGN.replace("-0.6\tGO\n", ""), "it has 7 1-grams, but announces 8"),
    "no probability": (FOREIGN.replace("-0.6\tGO", "x\tGO"), "'x' is no probability"),
    "no n-gram": (FOREIGN.replace("-0.6\tGO", "-0.6"), "line 13 is no 1-gram: '-0.6'"),
    "no such order": (FOREIGN.replace("\\2-grams", "\\3-grams"), "line 15 is"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_model_is_refused(what, tmp_path):
    content, message = DAMAGE[what]
    (tmp_path / "a.arpa").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        validate_arpa(tmp_path / "a.arpa", ALPHABET)
    assert "\n" not in str(error.value)


def test_wrong_counts_of_higher_orders_are_found_when_the_file_is_read_or_loaded(tmp_path):
    (tmp_path / "a.arpa").write_text(FOREIGN.replace("ngram 2=3", "ngram 2=4"))
    with pytest.raises(InputError, match="it has 3 2-grams, but announces 4"):
        normalize_arpa(tmp_path / "a.arpa", ALPHABET, tmp_path / "b.arpa")
    assert not (tmp_path / "b.arpa").exists()
    with pytest.raises(InputError, match="KenLM cannot load it"):
        score_text(tmp_path / "a.arpa", ["go"])
