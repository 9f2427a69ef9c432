"""ARPA files from anywhere: check them, take them over into the recogniser's alphabet, and score text by KenLM."""

import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

from asr.data.text import Alphabet
from asr.decoding.ngram import SPECIAL
from asr.errors import InputError, first_line
from asr.files import written_whole

GZIP = b"\x1f\x8b"  # the first bytes of a compressed file
LEAST_WRITABLE = 0.5  # the share of the words of a model that the alphabet must be able to write
INSTALL = "install it: pip install 'flashlight-text>=0.0.7'"


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text.

    words:            without </s>
    unknown:          how many of them are not in the model's vocabulary
    perplexity:       of all words and of each sentence's </s>; infinite if the model gives unknown words no probability
    known_perplexity: the same without the unknown words
    """

    sentences: int
    words: int
    unknown: int
    perplexity: float
    known_perplexity: float


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, which may be compressed by gzip; InputError if it cannot be read."""
    number = 0
    try:
        with open(path, "rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == GZIP else raw as file:
            for line in file:
                number += 1
                yield line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: line {number} is not UTF-8; convert the file: iconv -f latin1 -t utf-8 IN > OUT (or what its "
            "encoding is)"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged after line {number}: {error}; get it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a file that is there") from error


def read_arpa(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the order and the fields of each n-gram: log10 of its probability, its words, and a backoff weight or none.

    First comes the order 0, with the number of n-grams of each order as its fields.
    raises: InputError if the file is no ARPA, or does not hold the n-grams that it announces
    """
    announced: list[int] = []
    order = found = 0
    lines = enumerate(read_lines(path), 1)
    if next((line.strip() for _, line in lines if line.strip()), "") != "\\data\\":
        raise InputError(
            f"{path} is no ARPA file: its first line must be \\data\\; of a KenLM binary, give the ARPA that it was "
            "made from"
        )
    for number, line in lines:
        fields = line.split()
        if not fields:
            continue
        if order and not line.startswith("\\"):
            found += 1
            if len(fields) not in (order + 1, order + 2):
                raise _damaged(path, f"line {number} is no {order}-gram: {line.strip()[:60]!r}")
            yield order, fields
        elif (count := re.fullmatch(r"ngram (\d+)= *(\d+)", line.strip())) and int(count[1]) == len(announced) + 1:
            announced.append(int(count[2]))
        else:
            if order and found != announced[order - 1]:
                raise _damaged(path, f"it has {found:,} {order}-grams, but announces {announced[order - 1]:,}")
            if line.strip() == "\\end\\" and order == len(announced) > 0:
                return
            if not order:
                yield 0, [str(count) for count in announced]
            order, found = order + 1, 0
            if line.strip() != f"\\{order}-grams:" or order > len(announced):
                raise _damaged(path, f"line {number} is {line.strip()[:60]!r}")
    raise _damaged(path, "it ends before \\end\\")


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is damaged: {problem}; get it again, or make another: python -m asr.lm")


def read_words(path: Path) -> list[tuple[float, str]]:
    """Return log10 of the probability of each word, and the word; the n-grams of higher orders are not read."""
    words = []
    for order, fields in read_arpa(path):
        if order == 2:
            break
        if order == 1:
            try:
                words.append((float(fields[0]), fields[1]))
            except ValueError as error:
                raise _damaged(path, f"{fields[0][:60]!r} is no probability") from error
    return words


def validate_arpa(path: Path, alphabet: Alphabet) -> list[str]:
    """Return the words of a model that the alphabet can write, in the file's order.

    Only the unigrams are read, and the end of the file; KenLM checks the rest when it loads it.
    raises: InputError if the file is damaged, or most of its words cannot be written
    """
    words = [word for _, word in read_words(path) if word.lower() not in SPECIAL]
    with open(path, "rb") as file:
        if file.read(2) != GZIP:
            file.seek(max(0, path.stat().st_size - 1000))
            if b"\\end\\" not in file.read():
                raise _damaged(path, "it ends before \\end\\")
    writable = [word for word in words if alphabet.normalize(word) == word]
    if len(writable) <= LEAST_WRITABLE * len(words):
        foreign = next((word for word in words if alphabet.normalize(word) != word), "")
        raise InputError(
            f"{path}: the alphabet {alphabet.symbols!r} can write {len(writable):,} of its {len(words):,} words, and "
            f"not {foreign[:40]!r}; write it anew in the alphabet: python -m asr.lm arpa={path}"
        )
    return writable


def normalize_arpa(source: Path, alphabet: Alphabet, path: Path) -> list[int]:
    """Copy a model with its words as the alphabet writes them, and return the number of n-grams of each order.

    Of several words that the alphabet writes alike, such as WE'LL and WELL, the most likely gets that form. The others
    keep a form that cannot be recognised, so that no two words are the same and the probabilities still sum to one.
    """
    likeliest: dict[str, tuple[float, str]] = {}
    for probability, word in read_words(source):
        form = word.lower() if word.lower() in SPECIAL else alphabet.normalize(word)
        if form and probability > likeliest.get(form, (-inf, ""))[0]:
            likeliest[form] = (probability, word)
    names: dict[str, str] = {}
    for form, (_, word) in likeliest.items():  # if the form is itself a word, but a less likely one, they swap
        names[word], names[form] = form, word
    path.parent.mkdir(parents=True, exist_ok=True)
    section = 0
    with written_whole(path) as file:
        for order, fields in read_arpa(source):
            if order == 0:
                counts = [int(count) for count in fields]
                sizes = "".join(f"ngram {n}={count}\n" for n, count in enumerate(counts, 1))
                file.write(f"\\data\\\n{sizes}".encode())
                continue
            if order != section:
                file.write(f"\n\\{order}-grams:\n".encode())
                section = order
            words = " ".join(names.get(word, word) for word in fields[1 : order + 1])
            file.write("\t".join([fields[0], words, *fields[order + 1 :]]).encode() + b"\n")
        file.write(b"\n\\end\\\n")
    return counts


@contextmanager
def stderr_discarded() -> Iterator[None]:
    """Discard what C++ code writes to stderr, where KenLM draws a progress bar."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def score_text(path: Path, sentences: Sequence[str]) -> TextScore:
    """Score normalised sentences by a model; InputError if KenLM refuses the file."""
    try:
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    except ImportError as error:
        raise InputError(f"a language model needs KenLM, which flashlight-text brings along; {INSTALL}") from error
    known = {word for _, word in read_words(path)}
    words = Dictionary(sorted({word for sentence in sentences for word in sentence.split()}))
    try:
        with stderr_discarded():
            model = KenLM(str(path), words)
    except RuntimeError as error:
        raise InputError(f"{path}: KenLM cannot load it: {first_line(str(error).splitlines()[-1])}") from error
    total = total_unknown = 0.0
    count = unknown = 0
    for sentence in sentences:
        state = model.start(False)
        for word in sentence.split():
            state, score = model.score(state, words.get_index(word))
            total += score
            count += 1
            if word not in known:
                total_unknown += score
                unknown += 1
        total += model.finish(state)[1]
    tokens = count + len(sentences)
    perplexity = 10 ** (-total / tokens) if "<unk>" in known or not unknown else inf
    known_perplexity = 10 ** ((total_unknown - total) / (tokens - unknown))
    return TextScore(len(sentences), count, unknown, perplexity, known_perplexity)
