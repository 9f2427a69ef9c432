"""Configs compared key by key."""

from asr.settings import differences, flatten


def test_nested_settings_become_dotted_keys():
    config = {"model": {"convs": [{"channels": 4}, {"channels": 8}], "sizes": [1, 2]}, "empty": {}, "seed": 1}
    assert flatten(config) == {
        "model.convs.0.channels": 4,
        "model.convs.1.channels": 8,
        "model.sizes": [1, 2],
        "empty": {},
        "seed": 1,
    }


def test_differences_name_keys_and_values():
    old, new = {"a": {"b": 1, "c": 2}, "workers": 1}, {"a": {"b": 1, "c": 3}, "workers": 2, "d": [1]}
    assert differences(old, new, ignore=["workers"]) == ["a.c: 2 -> 3", "d: absent -> [1]"]
