"""Convert text to symbol ids and back. The blank of CTC has id 0, so the symbols of the alphabet start at 1."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import eq

from asr.errors import InputError

BLANK = 0


@dataclass(frozen=True)
class Alphabet:
    """The symbols that a model can output, in the order of their ids.

    symbols: one character each, e.g. " abcdefghijklmnopqrstuvwxyz"; the space separates words
    raises:  InputError if a symbol is repeated or could never occur (texts are lower-cased, and all white space becomes
             spaces), or if there is no space
    """

    symbols: str

    def __post_init__(self) -> None:
        if not isinstance(self.symbols, str):
            raise InputError(f"alphabet={self.symbols!r}: it must be a string that holds every symbol once")
        repeated = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if not self.symbols or repeated:
            raise InputError(
                f"alphabet {self.symbols!r}: every symbol must occur once, "
                f"{'but ' + repr(''.join(repeated)) + ' is repeated' if repeated else 'but there is none'}; "
                "correct the setting `alphabet`"
            )
        if self.symbols != self.symbols.lower():
            raise InputError(
                f"alphabet {self.symbols!r}: texts are lower-cased, so upper-case symbols would never occur; "
                "write them in lower case"
            )
        if [symbol for symbol in self.symbols if symbol.isspace()] != [" "]:
            raise InputError(
                f"alphabet {self.symbols!r}: the space, and no other white space, must be one of the symbols, since it "
                "separates words; in YAML only quotes keep it: alphabet: ' abc'"
            )

    @property
    def size(self) -> int:
        """The number of classes of the model: all symbols and the blank."""
        return len(self.symbols) + 1

    def normalize(self, text: str) -> str:
        """Return the text in lower case, without characters outside the alphabet, one space between words."""
        return " ".join(self._foreign.sub("", text.lower()).split())

    @cached_property
    def _foreign(self) -> re.Pattern:
        return re.compile(rf"[^{re.escape(self.symbols)}\s]+")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a normalised text; ValueError for a character that is not in the alphabet."""
        return [self.symbols.index(symbol) + 1 for symbol in text]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids without blanks."""
        return "".join(self.symbols[i - 1] for i in ids)


def frames_needed(symbols: Sequence[object]) -> int:
    """Return the frames that CTC needs for `symbols` (text or ids): one each, and a blank between equal neighbours."""
    return len(symbols) + sum(map(eq, symbols, symbols[1:]))
