"""Estimate an n-gram language model from sentences by interpolated modified Kneser-Ney smoothing, and write it as ARPA.

An n-gram is a number: its row among those of its order. So each order is a few arrays, and n-grams of any length are
counted by sorting pairs of (the number of the first n - 1 words, the last word).

source: Chen and Goodman (1998), An Empirical Study of Smoothing Techniques for Language Modeling; Heafield et al.
        (2013), Scalable Modified Kneser-Ney Language Model Estimation, whose lmplz gives the same probabilities
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import InputError
from asr.files import written_whole

SPECIAL = ("<unk>", "<s>", "</s>")  # the words with the ids 0, 1 and 2
UNK, BOS, EOS = range(3)
FALLBACK = (0.5, 1.0, 1.5)  # discounts where a text is too small to estimate them, as in lmplz
NEVER = -99.0  # log10 of the probability of <s>, which is never predicted


class Counts(NamedTuple):
    """The distinct n-grams of one order in a text.

    prefix, suffix: the numbers of the first and of the last n - 1 words among the n-grams of order n - 1
    word:           the last word
    occurrences:    in the text
    """

    prefix: np.ndarray
    suffix: np.ndarray
    word: np.ndarray
    occurrences: np.ndarray


@dataclass
class Order:
    """The smoothed n-grams of one order.

    kept:          which of them are not pruned
    discounts:     subtracted from counts of 1, 2, and 3 or more
    estimated:     whether the discounts are estimated from the text, or are the fallback
    probabilities: of the last word after the others
    backoffs:      what the lower order's probability is multiplied by, for a word that never follows the n-gram
    """

    counts: Counts
    kept: np.ndarray
    discounts: tuple[float, ...]
    estimated: bool
    probabilities: np.ndarray
    backoffs: np.ndarray


@dataclass(frozen=True)
class NgramModel:
    """A language model, and the size of the text that it was estimated from."""

    vocabulary: list[str]
    orders: list[Order]
    sentences: int
    words: int


def estimate(
    sentences: Iterable[str], order: int, prune: Sequence[int], min_count: int, max_words: int | None
) -> NgramModel:
    """Estimate a model from normalised sentences.

    prune:     n-grams of order 1, 2, ... that occur so many times or fewer are left out; the last number holds for all
               higher orders, and the first is 0
    min_count: words that occur fewer times are replaced by <unk>
    max_words: all but so many of the most frequent words are replaced by <unk>; None: no limit
    raises:    InputError if no n-gram of the highest order is left
    """
    tokens, vocabulary = tokenize(sentences, min_count, max_words)
    counts = count_ngrams(tokens, len(vocabulary), order)
    limits = [*prune, *[prune[-1]] * order][:order]
    orders: list[Order] = []
    lower = np.array([1 / (len(vocabulary) - 1)])  # order 0: uniform over the vocabulary, without <s>
    begins = np.arange(len(vocabulary)) == BOS
    for level, ngrams in enumerate(counts):
        prefix, suffix, _, occurrences = ngrams
        if level:
            begins = begins[prefix]
        # All orders but the highest count in how many contexts an n-gram occurs; nothing comes before <s>.
        contexts = np.bincount(counts[level + 1].suffix, minlength=len(prefix)) if level + 1 < order else occurrences
        adjusted = np.where(begins, occurrences, contexts)
        kept = occurrences > limits[level]
        if level == 0:
            adjusted[BOS] = 0
            kept[:] = True
        if not kept.any():
            raise InputError(
                f"prune={list(prune)} leaves no {level + 1}-gram of {len(prefix):,}: the most frequent one occurs "
                f"{occurrences.max(initial=0):,} times; set a smaller number, or a lower order"
            )
        discounts, estimated = estimate_discounts(adjusted)
        totals = np.bincount(prefix, adjusted, minlength=len(lower))
        own = np.where(kept, adjusted - np.array([0, *discounts])[np.minimum(adjusted, 3)], 0) / totals[prefix]
        backoffs = 1 - np.bincount(prefix, own, minlength=len(lower))
        if orders:
            orders[-1].backoffs = backoffs
        lower = own + backoffs[prefix] * lower[suffix]
        orders.append(Order(ngrams, kept, discounts, estimated, lower, np.ones(len(lower))))
    number = int((tokens == BOS).sum())
    return NgramModel(vocabulary, orders, number, len(tokens) - 2 * number)


def tokenize(sentences: Iterable[str], min_count: int, max_words: int | None) -> tuple[np.ndarray, list[str]]:
    """Return the ids of the words of all sentences, each from <s> to </s>, and the vocabulary in the order of ids."""
    ids: dict[str, int] = dict(zip(SPECIAL, range(3), strict=True))
    tokens = array("i")
    for sentence in sentences:
        words = sentence.split()
        for word in words:
            ids.setdefault(word, len(ids))
        tokens.extend((BOS, *map(ids.__getitem__, words), EOS))
    text = np.frombuffer(tokens, np.intc)
    counts = np.bincount(text, minlength=len(ids))
    frequent = [word for word, id in ids.items() if id > EOS and counts[id] >= min_count]
    if max_words and len(frequent) > max_words:
        frequent = sorted(frequent, key=lambda word: (-counts[ids[word]], word))[:max_words]
    vocabulary = [*SPECIAL, *sorted(frequent)]
    new = np.zeros(len(ids), np.int64)  # UNK
    new[[ids[word] for word in vocabulary]] = np.arange(len(vocabulary))
    return new[text], vocabulary


def count_ngrams(tokens: np.ndarray, words: int, order: int) -> list[Counts]:
    """Return the distinct n-grams of each order up to `order`; InputError if no sentence is long enough."""
    empty = np.zeros(words, np.int64)  # the one n-gram of order 0
    counts = [Counts(empty, empty, np.arange(words), np.bincount(tokens, minlength=words))]
    ids = tokens  # at each position, the n-gram that ends there; -1: none does
    for level in range(2, order + 1):
        ends = np.flatnonzero((ids[:-1] >= 0) & (tokens[1:] != BOS)) + 1
        if not len(ends):
            raise InputError(
                f"order={order}: no sentence has {level - 2} words, as an n-gram of order {level} needs beside <s> and "
                f"</s>; set order={level - 1} or less"
            )
        pairs = ids[ends - 1] * words + tokens[ends]
        distinct, first, own, occurrences = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        counts.append(Counts(distinct // words, ids[ends[first]], distinct % words, occurrences))
        ids = np.full(len(tokens), -1)
        ids[ends] = own
    return counts


def estimate_discounts(adjusted: np.ndarray) -> tuple[tuple[float, ...], bool]:
    """Return what to subtract from adjusted counts of 1, 2, and 3 or more, and whether that is estimated."""
    n1, n2, n3, n4 = (int((adjusted == count).sum()) for count in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(discount > 0 for discount in discounts):
            return discounts, True
    return FALLBACK, False


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write the model as an ARPA file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = np.array(model.vocabulary, object)
    names = words[:0]
    with written_whole(path) as file:
        sizes = "".join(f"ngram {n}={order.kept.sum()}\n" for n, order in enumerate(model.orders, 1))
        file.write(f"\\data\\\n{sizes}".encode())
        for n, order in enumerate(model.orders, 1):
            names = words if n == 1 else names[order.counts.prefix] + " " + words[order.counts.word]
            logs = np.log10(order.probabilities)
            if n == 1:
                logs[BOS] = NEVER
            kept = np.flatnonzero(order.kept)
            columns = names[kept], logs[kept].tolist(), np.log10(order.backoffs[kept]).tolist()
            file.write(f"\n\\{n}-grams:\n".encode())
            for name, probability, backoff in zip(*columns, strict=True):
                weight = f"\t{backoff:.7g}" if n < len(model.orders) else ""
                file.write(f"{probability:.7g}\t{name}{weight}\n".encode())
        file.write(b"\n\\end\\\n")
