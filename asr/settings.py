"""Settings: the rules for their values, and configs as dotted keys, compared key by key."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from asr.errors import InputError


class Rule(NamedTuple):
    """A condition that the value of a setting must meet: in words, for the message, and as a function."""

    words: str
    holds: Callable[[Any], bool]

    @property
    def or_null(self) -> "Rule":
        """The same rule for a setting that may be null as well."""
        return Rule(f"{self.words} or null", lambda value: value is None or self.holds(value))


Rules = Mapping[str, Rule]
"""The rule of each setting, by its dotted key."""


def as_typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(words: str, holds: Callable[[float], bool]) -> Rule:
    return Rule(words, lambda value: type(value) in (int, float) and holds(value))  # no bool


def whole(low: int, high: int | None = None) -> Rule:
    """Return the rule that a value is a whole number from low to high, or without an upper bound."""
    words = f"a whole number of at least {low}" if high is None else f"a whole number from {low:,} to {high:,}"
    return Rule(words, lambda value: type(value) is int and low <= value and (high is None or value <= high))


def one_of(*values: object) -> Rule:
    """Return the rule that a value is one of these, of the same type."""
    names = ", ".join(map(as_typed, values))
    return Rule(f"one of {names}", lambda value: any(value is v or (type(value) is str and value == v) for v in values))


SAMPLE_RATES = range(4_000, 384_001)  # Hz; a telephone has 8,000, the fastest converter 384,000
GROUP = Rule("a group of settings, each given as GROUP.SETTING=VALUE", lambda value: isinstance(value, Mapping))
STRING = Rule(
    "a string; to give a number as a string, type \"'5'\"", lambda value: isinstance(value, str) and value != ""
)
LIST = Rule("a list", lambda value: isinstance(value, Sequence) and not isinstance(value, str))
STRINGS = Rule("a list of strings", lambda value: LIST.holds(value) and all(isinstance(item, str) for item in value))
SWITCH = one_of(True, False)
NUMBER = _number("a number", lambda value: abs(value) < 1e308)
POSITIVE = _number("a number above 0", lambda value: value > 0)
ABOVE_1 = _number("a number above 1", lambda value: value > 1)
FRACTION = _number("a number from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = _number("a number from 0 to below 1", lambda value: 0 <= value < 1)


def require(key: str, value: Any, rule: Rule) -> None:
    """Raise InputError if the value of a setting breaks its rule."""
    if not rule.holds(value):
        raise InputError(f"{key}={as_typed(value)}: it must be {rule.words}")


def check(config: Mapping[str, Any], rules: Rules) -> None:
    """Raise InputError for the first setting that breaks its rule; one that is missing counts as null."""
    for key, rule in rules.items():
        value: Any = config
        names = key.split(".")
        for depth, name in enumerate(names):
            if depth:
                require(".".join(names[:depth]), value, GROUP)
            value = value.get(name)
        require(key, value, rule)


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"model.gru_layers": 7} for {model: {gru_layers: 7}}; a list of mappings counts as {0: ..., 1: ...}."""
    return dict(_leaves(config, ""))


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list) and any(isinstance(item, Mapping) for item in node):
        node = dict(enumerate(node))
    if isinstance(node, Mapping) and (node or not prefix):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Sequence[str]) -> list[str]:
    """Return the settings in which two configs differ, as "key: old -> new", except those within `ignore`."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent") and not within(key, ignore)
    ]


def within(key: str, keys: Sequence[str]) -> bool:
    """Return whether a dotted key is one of these or lies below one of them."""
    return any(key == one or key.startswith(f"{one}.") for one in keys)
