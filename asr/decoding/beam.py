"""Beam search over CTC paths by flashlight-text, with an n-gram model of words, a list of words, both or neither.

source: github.com/flashlight/text, which torchaudio's ctc_decoder wraps as well
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from asr.data.text import BLANK, Alphabet
from asr.decoding.arpa import read_lines, stderr_discarded, validate_arpa
from asr.decoding.decoder import Hypothesis
from asr.errors import DivergedError, InputError, first_line
from asr.settings import NUMBER, POSITIVE, STRING, Rules, check, whole

try:
    from flashlight.lib.text.decoder import (
        LM,
        CriterionType,
        DecodeResult,
        LexiconDecoder,
        LexiconDecoderOptions,
        LexiconFreeDecoder,
        LexiconFreeDecoderOptions,
        LMState,
        SmearingMode,
        Trie,
        ZeroLM,
    )
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary
except ImportError as missing:
    raise InputError(
        f"decode=beam and decode=beam_lm need flashlight-text ({first_line(missing)}), which has wheels for Linux and "
        f"macOS up to Python 3.12: pip install -e '.[decode]', or decode=greedy"
    ) from missing

UNKNOWN = "<unk>"
LN10 = math.log(10)  # KenLM's logarithms are decimal
RULES: Rules = {
    "decode.beam": whole(1),
    "decode.threshold": POSITIVE,
    "decode.symbols": whole(1),
    "decode.n_best": whole(1),
    "decode.lexicon": STRING.or_null,
    "decode.lm": STRING.or_null,
    "decode.lm_weight": NUMBER,
    "decode.word_score": NUMBER,
    "decode.unknown_score": NUMBER,
}
KENLM_BINARY = b"mmap lm http://kheafield.com/code"  # how such a file begins
IMPOSSIBLE = -1e4  # a log-probability; flashlight computes nan from infinities


@dataclass(frozen=True)
class BeamSearch:
    """Find the texts with the highest scores, where the score of a text is, in natural logarithms,

        log P_ctc(text) + lm_weight * log P_lm(text) + word_score * words + unknown_score * unknown words.

    beam, threshold: hypotheses kept after each frame, unless they are so much worse than the best
    symbols:         most likely symbols of a frame that hypotheses are extended with
    lexicon:         texts consist of the words of this file, one a line; `lm`: of those of the ARPA file; None: of any
    lm:              an ARPA file or, with a lexicon, one of KenLM's binary files; None: no language model
    raises:          InputError for an invalid setting or file
    """

    alphabet: Alphabet
    beam: int = 100
    threshold: float = 20.0
    symbols: int = 8
    n_best: int = 1
    lexicon: str | None = None
    lm: str | None = None
    lm_weight: float = 0.0
    word_score: float = 0.0
    unknown_score: float = 0.0

    def __post_init__(self) -> None:
        check({"decode": vars(self)}, RULES)
        self.words, self._search  # noqa: B018 - found now, so that a mistake is reported before any work

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words that are known: those of the lexicon or, without one, of the model."""
        listed = None if self.lexicon in (None, "lm") else read_lexicon(Path(self.lexicon), self.alphabet)
        if self.lm is None:
            if self.lexicon == "lm":
                raise InputError("decode.lexicon=lm: there is no model to take words from; give decode.lm=FILE")
            return listed or ()
        if is_kenlm_binary(Path(self.lm)):
            if listed is None:
                raise InputError(
                    f"decode.lm={self.lm}: the words of KenLM's binary files cannot be read; give the list of words "
                    "as decode.lexicon=FILE, or the ARPA file as decode.lm"
                )
            return listed
        modelled = tuple(validate_arpa(Path(self.lm), self.alphabet))
        return modelled if listed is None else listed

    @cached_property
    def _search(self) -> tuple[LexiconDecoder | LexiconFreeDecoder, LM, Dictionary | None]:
        """flashlight's decoder; its model, to which it keeps no reference; with a lexicon, the words by number."""
        common = {
            "beam_size": self.beam,
            "beam_size_token": min(self.symbols, self.alphabet.size),
            "beam_threshold": self.threshold,
            "sil_score": 0.0,
            "log_add": True,  # a text's probability is the sum over its paths
            "criterion_type": CriterionType.CTC,
        }
        (space,) = self.alphabet.encode(" ")
        if self.lexicon:
            model, numbers = load_model(self.lm, self.words)
            options = LexiconDecoderOptions(
                **common, lm_weight=self.lm_weight * LN10, word_score=self.word_score, unk_score=-math.inf
            )
            trie, unknown = spell(self.alphabet, self.lm, self.words), numbers.get_index(UNKNOWN)
            return LexiconDecoder(options, trie, model, space, BLANK, unknown, [], False), model, numbers
        model = OpenVocabulary(self) if self.lm else ZeroLM()
        options = LexiconFreeDecoderOptions(**common, lm_weight=1.0)
        return LexiconFreeDecoder(options, model, space, BLANK, []), model, None

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Return the n_best hypotheses of each utterance, normalised and all different; see Decoder."""
        return [self._decode(own[:length]) for own, length in zip(log_probs.cpu(), lengths.tolist(), strict=True)]

    def _decode(self, log_probs: Tensor) -> list[Hypothesis]:
        if log_probs.isnan().any():
            raise DivergedError("the model's output is not a number, so it has diverged: decode another checkpoint")
        if self.lexicon:  # a space at the end, without which the last word would not be complete
            space = one_hot(torch.tensor(self.alphabet.encode(" ")), self.alphabet.size)
            log_probs = torch.cat([log_probs, (1 - space) * IMPOSSIBLE])
        log_probs = log_probs.float().clamp(min=IMPOSSIBLE).contiguous()
        scores: dict[str, float] = {}
        decoder, _, numbers = self._search
        for result in decoder.decode(log_probs.data_ptr(), *log_probs.shape):
            text = self._text(result, numbers)
            # Texts that differ in spaces alone are the same.
            scores[text] = float(np.logaddexp(scores.get(text, -math.inf), result.score))
        ranked = sorted(scores.items(), key=lambda one: -one[1])
        return [Hypothesis(*one) for one in ranked[: self.n_best]]

    def _text(self, result: DecodeResult, numbers: Dictionary | None) -> str:
        if numbers:
            return " ".join(numbers.get_entry(word) for word in result.words if word >= 0)
        symbols = [symbol for symbol, _ in groupby(result.tokens) if symbol != BLANK]
        return " ".join(self.alphabet.decode(symbols).split())


def read_lexicon(path: Path, alphabet: Alphabet) -> tuple[str, ...]:
    """Return the words of a file with one a line, each once; InputError if one is not a word of the alphabet."""
    words = dict.fromkeys(line.strip() for line in read_lines(path))
    words.pop("", None)
    if not words:
        raise InputError(
            f"decode.lexicon={path} is empty: write one word a line, or set decode.lexicon=null for any word"
        )
    foreign = [word for word in words if alphabet.normalize(word) != word or " " in word]
    if foreign:
        raise InputError(
            f"decode.lexicon={path}: {len(foreign):,} of {len(words):,} lines are not one word in the alphabet "
            f"{alphabet.symbols!r}, the first is {foreign[0][:40]!r}; write one word a line, in lower case"
        )
    return tuple(words)


def is_kenlm_binary(path: Path) -> bool:
    """Return whether a file is one of KenLM's binary files; InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(KENLM_BINARY)) == KENLM_BINARY
    except OSError as error:
        raise InputError(
            f"decode.lm={path} cannot be read ({error.strerror}); give an ARPA file that exists"
        ) from error


@lru_cache(maxsize=1)  # trials of other weights share it
def load_model(lm: str | None, words: tuple[str, ...]) -> tuple[LM, Dictionary]:
    """Return an n-gram model, or one that gives every word the score 0, and the numbers of its words.

    raises: InputError if KenLM refuses the file
    """
    dictionary = Dictionary([*words, UNKNOWN])
    if lm is None:
        return ZeroLM(), dictionary
    try:
        with stderr_discarded():
            return KenLM(lm, dictionary), dictionary
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"decode.lm={lm}: KenLM cannot load it ({first_line(str(error).splitlines()[-1])}); get the file again"
        ) from error


@lru_cache(maxsize=1)
def spell(alphabet: Alphabet, lm: str | None, words: tuple[str, ...]) -> Trie:
    """Return the tree of the words' letters; each word ends with a space, so that its last letter can be repeated."""
    model, dictionary = load_model(lm, words)
    start = model.start(False)
    trie = Trie(alphabet.size, alphabet.encode(" ")[0])
    for word in words:
        number = dictionary.get_index(word)
        trie.insert(alphabet.encode(f"{word} "), number, model.score(start, number)[1])
    trie.smear(SmearingMode.MAX)
    return trie


class OpenVocabulary(LM):
    """Score texts by a model of words, letter by letter, so that a word need not be one of the model's.

    A word is scored when the space after it, or the end of the text, is reached.
    """

    def __init__(self, settings: "BeamSearch") -> None:
        super().__init__()
        self.settings = settings
        self.model, numbers = load_model(settings.lm, settings.words)
        self.numbers = {word: numbers.get_index(word) for word in settings.words}
        self.unknown = numbers.get_index(UNKNOWN)
        self.letters = f"\0{settings.alphabet.symbols}"  # by class
        self.known: dict[LMState, tuple[LMState, str, float]] = {}

    def start(self, start_with_nothing: bool) -> LMState:
        """Return the state before an utterance. source: flashlight calls it once for each."""
        state = LMState()
        self.known = {state: (self.model.start(start_with_nothing), "", 0.0)}
        return state

    def score(self, state: LMState, token: int) -> tuple[LMState, float]:
        """Return the state after one more symbol, and what the symbol adds to the score."""
        child = state.child(token)
        if found := self.known.get(child):
            return child, found[2]
        words, begun, _ = self.known[state]
        added = 0.0
        if (letter := self.letters[token]) != " ":
            begun += letter
        else:
            words, added = self._end_word(words, begun)
            begun = ""
        self.known[child] = words, begun, added
        return child, added

    def finish(self, state: LMState) -> tuple[LMState, float]:
        """Return what the end of the text adds to the score."""
        words, begun, _ = self.known[state]
        words, added = self._end_word(words, begun)
        return state, added + self.settings.lm_weight * LN10 * self.model.finish(words)[1]

    def _end_word(self, words: LMState, word: str) -> tuple[LMState, float]:
        if not word:
            return words, 0.0
        number = self.numbers.get(word, self.unknown)
        words, score = self.model.score(words, number)
        added = self.settings.lm_weight * LN10 * score + self.settings.word_score
        return words, added + (self.settings.unknown_score if number == self.unknown else 0.0)
