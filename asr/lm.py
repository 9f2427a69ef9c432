"""python -m asr.lm: make an n-gram language model from text, transcripts or another ARPA file, and score it.

python -m asr.lm data=synthetic
python -m asr.lm arpa=3-gram.pruned.1e-7 data=clean
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import DictConfig
from rich.table import Column, Table

from asr.cli import entry_point
from asr.console import console, download_bar, print_facts, print_table
from asr.corpora.download import Archive
from asr.data.parts import load_parts
from asr.data.text import Alphabet
from asr.decoding.arpa import TextScore, normalize_arpa, read_lines, score_text
from asr.decoding.ngram import NgramModel, estimate, write_arpa
from asr.errors import InputError
from asr.settings import GROUP, LIST, STRING, Rule, Rules, check, whole

PUBLISHED = ("3-gram.pruned.3e-7", "3-gram.pruned.1e-7", "3-gram", "4-gram")  # of OpenSLR's resource 11
PRUNE = Rule(
    "a list of whole numbers for the orders 1, 2, ..., none smaller than the one before, and the first 0 (min_count "
    "and max_words leave out words), such as [0,0,1]",
    lambda value: (
        LIST.holds(value)
        and all(type(item) is int for item in value)
        and list(value[:1]) == [0]
        and list(value) == sorted(value)
    ),
)
RULES: Rules = {
    "data": GROUP.or_null,
    "text": STRING.or_null,
    "arpa": STRING.or_null,
    "heldout": STRING.or_null,
    "order": whole(2, 6),  # which KenLM can load
    "prune": PRUNE,
    "min_count": whole(1),
    "max_words": whole(1).or_null,
    "alphabet": STRING,
    "output": STRING,
    "base_url": STRING,
    "archives": STRING,
}


@entry_point("lm")
def main(config: DictConfig) -> None:
    """Make the model, and print its n-grams, its perplexity and the command that uses it."""
    run(config)
    console.print(f"Model: {config.output}", soft_wrap=True)
    console.print(
        f"Use it: python -m asr.evaluate checkpoint=RUN/best.pt decode=beam_lm decode.lm={config.output}",
        soft_wrap=True,
    )


def run(config: DictConfig) -> TextScore | None:
    """Write the model, print what it holds, and return its score on the held-out text, if there is one."""
    check(config, RULES)
    if len(config.prune) > config.order:
        raise InputError(f"prune={list(config.prune)} has more numbers than order={config.order}; give one an order")
    if config.text and config.arpa:
        raise InputError(f"text={config.text} and arpa={config.arpa}: a model is made of one of them; leave one out")
    if not (config.text or config.arpa or config.get("data")):
        raise InputError("there is nothing to make a model of: give text=FILE, arpa=FILE, or a corpus: data=synthetic")
    alphabet, output = Alphabet(config.alphabet), Path(config.output)
    heldout = list(read_heldout(config, alphabet))
    if config.arpa:
        counts = normalize_arpa(find_arpa(config), alphabet, output)
        print_orders([(f"{count:,}",) for count in counts], f"{config.arpa} in the alphabet {config.alphabet!r}", ())
    else:
        common: set[str] = set()
        sentences = noting(read_training(config, alphabet), set(heldout), common)
        model = estimate(sentences, config.order, config.prune, config.min_count, config.max_words)
        write_arpa(model, output)
        print_model(model)
        if heldout:
            share = sum(sentence in common for sentence in heldout) / len(heldout)
            print_facts({"held-out sentences that are in the training text": f"{share:.2%}"})
    if not heldout:
        return None
    score = score_text(output, heldout)
    print_score(score)
    return score


def find_arpa(config: DictConfig) -> Path:
    """Return the path of the ARPA file, which is downloaded if it is a published one."""
    if config.arpa not in PUBLISHED:
        return Path(config.arpa)
    path = Path(config.archives) / f"{config.arpa}.arpa.gz"
    with download_bar(config.arpa) as bar:
        Archive(f"{config.base_url.rstrip('/')}/{path.name}", path, None).ensure_file(bar)
    return path


def read_training(config: DictConfig, alphabet: Alphabet) -> Iterator[str]:
    """Yield the normalised sentences of the text, or of the corpus's training parts."""
    if config.text:
        return read_text(Path(config.text), alphabet)
    return read_transcripts(config.data, config.data.train, alphabet)


def read_heldout(config: DictConfig, alphabet: Alphabet) -> Iterator[str]:
    """Yield the normalised sentences of the held-out text, or of the corpus's dev parts; none without either."""
    if config.heldout:
        return read_text(Path(config.heldout), alphabet)
    return read_transcripts(config.get("data"), config.data.dev if config.get("data") else [], alphabet)


def read_text(path: Path, alphabet: Alphabet) -> Iterator[str]:
    """Yield the normalised lines of a text file; InputError if nothing is left of any."""
    lines = found = 0
    for line in read_lines(path):
        lines += 1
        if sentence := alphabet.normalize(line):
            found += 1
            yield sentence
    if not found:
        raise InputError(
            f"{path}: none of its {lines:,} lines holds a character of the alphabet {alphabet.symbols!r}; give a file "
            "with sentences, or set alphabet as in the training of the recogniser"
        )


def read_transcripts(data: DictConfig, parts: list[str], alphabet: Alphabet) -> Iterator[str]:
    """Yield the normalised transcripts of parts of a corpus."""
    for _, utterances in load_parts(data, parts):
        yield from filter(None, map(alphabet.normalize, utterances.table["text"].to_pylist()))


def noting(sentences: Iterable[str], wanted: set[str], found: set[str]) -> Iterator[str]:
    """Yield the sentences, and put those that are wanted into `found`."""
    for sentence in sentences:
        if sentence in wanted:
            found.add(sentence)
        yield sentence


def print_model(model: NgramModel) -> None:
    """Print the n-grams of each order, and the discounts of modified Kneser-Ney smoothing."""
    rows = []
    for order in model.orders:
        numbers = [f"{len(order.kept):,}", f"{order.kept.sum():,}"]
        rows.append((*numbers, *(f"{discount:.3f}" for discount in order.discounts)))
    title = f"{model.sentences:,} sentences, {model.words:,} words, {len(model.vocabulary) - 3:,} distinct words kept"
    print_orders(rows, title, ("kept", "D1", "D2", "D3+"))
    if small := [str(n) for n, order in enumerate(model.orders, 1) if not order.estimated]:
        console.print(f"The text is too small to estimate the discounts of order {', '.join(small)}: lmplz's fallback.")


def print_orders(rows: Iterable[tuple[str, ...]], title: str, more: tuple[str, ...]) -> None:
    """Print a row of figures for each order."""
    columns = (Column(name, justify="right") for name in ("order", "n-grams", *more))
    table = Table(*columns, box=None, pad_edge=False)
    for order, row in enumerate(rows, 1):
        table.add_row(str(order), *row)
    print_table(title, table)


def print_score(score: TextScore) -> None:
    """Print how well the model predicts the held-out text."""
    print_facts(
        {
            "held-out sentences": f"{score.sentences:,}",
            "held-out words": f"{score.words:,}",
            "out of vocabulary": f"{score.unknown:,} ({score.unknown / max(1, score.words):.2%})",
            "perplexity": f"{score.perplexity:.1f}",
            "perplexity without unknown words": f"{score.known_perplexity:.1f}",
        }
    )


if __name__ == "__main__":
    main()
