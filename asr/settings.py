"""Nested settings as dotted keys: how configs are compared and how MLflow shows them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


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
    """The settings in which two configs differ, as "key: old -> new", without the top-level keys in `ignore`."""
    before, after = (flatten({key: value for key, value in c.items() if key not in ignore}) for c in (old, new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]
