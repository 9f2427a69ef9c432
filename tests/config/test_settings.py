"""The rules for settings, and configs compared key by key."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from asr import cli
from asr.config.rules import TRAIN
from asr.errors import InputError
from asr.settings import (
    FRACTION,
    GROUP,
    POSITIVE,
    STRING,
    STRINGS,
    SWITCH,
    check,
    differences,
    flatten,
    one_of,
    whole,
    within,
)


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
        (whole(0), [0, 3, 10**20], [-1, 1.0, True, "1", None]),
        (whole(1), [1, 3], [0, 2.5, "many"]),
        (whole(2, 4), [2, 4], [1, 5]),
        (POSITIVE, [0.1, 20], [0, -1, "20", True, float("nan")]),
        (POSITIVE.or_null, [0.1, None], [0, "null"]),
        (FRACTION, [0, 1], [1.1, -0.1, float("nan")]),
        (STRING, ["5"], [5, "", ["a"], None]),
        (STRINGS, [["a", "b"], []], ["ab", [1], {"a": "b"}, None]),
        (GROUP, [{"a": 1}, {}], [3, "a", ["a"], None]),
        (one_of("loss", "wer"), ["wer"], ["speed", None]),
        (SWITCH, [True, False], [1, "yes", None]),
    ],
)
@pytest.mark.parametrize("composed", [dict, OmegaConf.create])
def test_rules_hold_for_what_is_right_and_name_what_is_wrong(rule, right, wrong, composed):
    for value in right:
        check(composed({"a": {"b": value}}), {"a.b": rule})
    for value in wrong:
        with pytest.raises(InputError, match=r"a\.b=.*must be"):
            check(composed({"a": {"b": value}}), {"a.b": rule})


def test_values_are_shown_as_they_are_typed():
    for value, typed in ((None, "null"), (True, "true"), ("many", "many")):
        with pytest.raises(InputError, match=f"^steps={typed}: it must be a whole number of at least 1$"):
            check({"steps": value}, {"steps": whole(1)})


def test_every_setting_of_a_training_has_a_rule():
    """But those of the groups whose classes check their own, and Hydra's."""
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", ["output_dir=nowhere", "init_from=null"]), resolve=True)
    checked_by_class = ("model", "augment", "optimizer", "scheduler", "decode", "features")
    assert {key for key in flatten(config) if not within(key, checked_by_class)} <= TRAIN.keys()
    check(config, TRAIN)
    with pytest.raises(InputError, match="epochs=null: it must be a whole number"):
        check({key: value for key, value in config.items() if key != "epochs"}, TRAIN)
