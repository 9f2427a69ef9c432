"""The exception that an entry point shows as a paragraph, and what such a paragraph says of others."""

import re


class InputError(Exception):
    """What the user gave cannot work. The message names the value, the rule and the way out, in one paragraph."""


class ToldError(InputError):
    """What the main process of several tells, in the others: they end, and say nothing."""


class DivergedError(InputError):
    """Losses, gradients or scores are not finite."""


def mask(text: str) -> str:
    """Replace the passwords of addresses in a text, //USER:PASSWORD@HOST and ?password=PASSWORD, by ***."""
    return re.sub(r"([?&]password=)[^\s&'\"]+", r"\1***", re.sub(r"(//[^\s'\":/@]*:)[^\s'\"]*@", r"\1***@", text))


def first_line(error: object) -> str:
    """Return the first line of an exception's message, without passwords; the exception's type if it has none."""
    return mask((str(error).strip().splitlines() or [type(error).__name__])[0])
