"""Configs compared key by key."""

import pytest
from omegaconf import OmegaConf

from asr.errors import InputError
from asr.settings import POSITIVE, WHOLE_FROM_0, WHOLE_FROM_1, check, differences, flatten, one_of


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


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (WHOLE_FROM_0, [0, 3], [-1, 1.0, True, "1", None]),
        (WHOLE_FROM_1, [1, 3], [0, 2.5, "many"]),
        (POSITIVE, [0.1, 20], [0, -1, "20", True, float("nan")]),
        (one_of("loss", "wer"), ["wer"], ["speed", None]),
        (one_of(True, False), [True, False], [1, "yes", None]),
    ],
)
def test_rules_hold_for_what_is_right_and_name_what_is_wrong(rule, right, wrong):
    for value in right:
        check(OmegaConf.create({"a": {"b": value}}), {rule: "a.b"})
    for value in wrong:
        with pytest.raises(InputError, match=r"a\.b=.*must be"):
            check(OmegaConf.create({"a": {"b": value}}), {rule: "a.b"})


def test_only_a_key_with_a_question_mark_may_be_null():
    config = OmegaConf.create({"steps": None})
    check(config, {WHOLE_FROM_1: "steps?"})
    with pytest.raises(InputError, match="steps=None"):
        check(config, {WHOLE_FROM_1: "steps"})
