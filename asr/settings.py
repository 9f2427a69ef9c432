"""Settings: what they must be, and as dotted keys, how configs are compared and shown in MLflow."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from asr.errors import InputError


class Rule(NamedTuple):
    """What a value must be, in words, and whether it is."""

    words: str
    holds: Callable[[Any], bool]


Rules = Mapping[Rule, str]
"""Rule -> the dotted keys that it is for, parted by spaces; one that ends in a question mark may be null."""

SAMPLE_RATES = range(4_000, 384_001)  # Hz; a telephone has 8,000, the fastest converter 384,000
WHOLE_FROM_0 = Rule("a whole number from 0 on", lambda value: type(value) is int and value >= 0)
WHOLE_FROM_1 = Rule("a whole number from 1 on", lambda value: type(value) is int and value >= 1)
WHOLE_FROM_2 = Rule("a whole number from 2 on", lambda value: type(value) is int and value >= 2)
SHARE = Rule("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
TEXT = Rule("a text; a number as text is typed \"'5'\"", lambda value: isinstance(value, str) and value != "")
TEXTS = Rule("a list of texts", lambda value: OmegaConf.is_list(value) and all(isinstance(item, str) for item in value))
GROUP = Rule("a group of settings, each given as GROUP.SETTING=VALUE", OmegaConf.is_dict)
POSITIVE = Rule("a number above 0", lambda value: type(value) in (int, float) and value > 0)


def one_of(*values: object) -> Rule:
    """The rule that a value is one of these, of the same type."""
    names = ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return Rule(f"one of {names}", lambda value: any(value is v or (type(value) is str and value == v) for v in values))


def whole(low: int, high: int) -> Rule:
    """The rule that a value is a whole number within bounds."""
    return Rule(f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high)


def require(key: str, value: Any, rule: Rule) -> None:
    """InputError if a setting breaks its rule; a key that ends in a question mark may be null."""
    name, nullable = key.rstrip("?"), key.endswith("?")
    if not (rule.holds(value) or (value is None and nullable)):
        raise InputError(f"{name}={value}: it must be {rule.words}{' or null' if nullable else ''}")


def check(config: DictConfig, rules: Rules) -> None:
    """InputError for the first setting that breaks its rule."""
    for rule, keys in rules.items():
        for key in keys.split():
            require(key, OmegaConf.select(config, key.rstrip("?")), rule)


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """{model: {gru_layers: 7}} as {"model.gru_layers": 7}; a list of mappings counts as a mapping from 0 on."""
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
    """The settings in which two configs differ, as "key: old -> new", without those within `ignore`."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent") and not within(key, ignore)
    ]


def within(key: str, keys: Sequence[str]) -> bool:
    """Whether a dotted key is one of these, or lies below one of them."""
    return any(key == one or key.startswith(f"{one}.") for one in keys)
