"""The search space: the settings that a trial draws, those that it fixes, and the config that results."""

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from asr.cli import no_such_setting
from asr.config.naming import EXECUTION_KEYS, identifying_overrides, override_key
from asr.config.rules import CHOICES, RANGE
from asr.errors import InputError, first_line
from asr.settings import as_typed, require, within

OWN_NODES = ("search", "study")  # the settings of the search; the rest of its config is that of asr.train
SUGGEST = {FloatDistribution: "suggest_float", IntDistribution: "suggest_int",
           CategoricalDistribution: "suggest_categorical"}  # fmt: skip
Values = Mapping[str, Any]
"""Settings by dotted key."""


class Space(NamedTuple):
    """The distribution of each searched setting, and the settings that are fixed in every trial, by dotted key."""

    drawn: dict[str, BaseDistribution]
    fixed: dict[str, Any]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw the values of a trial."""
        return {key: getattr(trial, SUGGEST[type(d)])(key, **vars(d)) for key, d in self.drawn.items()}

    def corners(self) -> list[dict[str, Any]]:
        """Return the fewest trials that contain every choice and both ends of every range."""
        edges = {key: getattr(d, "choices", None) or (d.low, d.high) for key, d in self.drawn.items()}  # type: ignore[attr-defined]
        count = max(map(len, edges.values()))
        return [{key: values[min(number, len(values) - 1)] for key, values in edges.items()} for number in range(count)]

    def baseline(self, config: DictConfig) -> dict[str, Any] | None:
        """Return the values of the config itself, for a trial to compare with; None if one is outside the space."""
        own = {key: OmegaConf.select(config, key) for key in self.drawn}
        try:
            optuna.create_trial(params=own, distributions=self.drawn, value=0.0)
        except ValueError:
            return None
        return own

    def facts(self) -> dict[str, str]:
        """Return the lines of the plan."""
        facts = {"space": "\n".join(f"{key}: {_describe(d)}" for key, d in self.drawn.items())}
        if self.fixed:
            facts["fixed"] = "\n".join(f"{key} = {show_setting(value)}" for key, value in self.fixed.items())
        return facts


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(show_setting, distribution.choices))
    low, high, log, step = (getattr(distribution, name) for name in ("low", "high", "log", "step"))
    return f"{low:g} to {high:g}{', log scale' if log else f', in steps of {step:g}' if step else ''}"


def read_space(config: DictConfig, typed: Sequence[str]) -> Space:
    """Return the space that config.search.space describes.

    typed:  overrides of the command line, which must not set what the search sets
    raises: InputError if a key is unknown or in `typed`, or a range is invalid
    """
    training, typed_keys, space = training_config(config), set(map(override_key, typed)), Space({}, {})
    for key, node in _leaves(OmegaConf.to_container(config.search.space, resolve=False)):
        _validate_key(training, key)
        if key in typed_keys:
            raise InputError(
                f"{key} is given on the command line, but this search sets it in every trial: remove it from the "
                "command line, or from the file in conf/search"
            )
        if isinstance(node, dict):
            space.drawn[key] = read_distribution(f"search.space.{key}", node)
        else:
            space.fixed[key] = node
    if not space.drawn:
        raise InputError("search.space is empty: it must draw at least one setting, as conf/search/lr.yaml does")
    return space


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of the space by its dotted key: the fields of a range or of choices, or a fixed value."""
    for name, child in node.items():
        if isinstance(child, dict) and not {"low", "high", "choices"} & child.keys():
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _validate_key(training: DictConfig, key: str) -> None:
    """Raise an InputError unless the key is a single setting that affects what a run computes."""
    parent, _, name = key.rpartition(".")
    level = OmegaConf.select(training, parent) if parent else training
    if not OmegaConf.is_dict(level) or name not in level:
        raise InputError(f"search.space: {no_such_setting(training, key)}")
    if OmegaConf.is_config(OmegaConf.select(training, key)):
        raise InputError(f"search.space: {key} is not a single setting; search its settings, such as {key}.NAME")
    if within(key, EXECUTION_KEYS):
        raise InputError(f"search.space: {key} sets how a run is executed, not what it computes; search another one")


def read_distribution(key: str, node: dict[str, Any]) -> BaseDistribution:
    """Return Optuna's distribution of a setting that is given by low and high, or by choices; `key` is for messages.

    raises: InputError if a field is missing or invalid
    """
    rules = CHOICES if "choices" in node else RANGE
    for name, rule in rules.items():
        require(f"{key}.{name}", node.get(name), rule)
    fields = {name: value for name, value in node.items() if name != "int"}
    kind = CategoricalDistribution if rules is CHOICES else IntDistribution if node.get("int") else FloatDistribution
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Optuna warns of choices that it cannot store, and cuts uneven ranges
            distribution: BaseDistribution = kind(**fields)
    except (TypeError, ValueError, UserWarning) as error:
        raise InputError(f"{key}={node}: {first_line(error)}. Correct it in conf/search, or by {key}=...") from error
    if kind is IntDistribution and any(vars(distribution)[name] != node[name] for name in ("low", "high")):
        raise InputError(f"{key}={node}: int: true needs whole numbers")
    return distribution


def training_config(config: DictConfig) -> DictConfig:
    """Return the config as asr.train would compose it, with the output directory of the search."""
    training = OmegaConf.masked_copy(copy.deepcopy(config), [str(key) for key in config if key not in OWN_NODES])
    training.output_dir = config.output_dir  # its name depends on the settings of the search
    return training


def trial_config(config: DictConfig, space: Space, values: Values) -> DictConfig:
    """Return the training config with these values, and with those that the space fixes."""
    training = training_config(config)
    for key, value in {**space.fixed, **values}.items():
        OmegaConf.update(training, key, value)
    return training


def trial_settings(training: DictConfig, space: Space) -> dict[str, Any]:
    """Return the settings of a trial's config that the space draws or fixes."""
    return {key: OmegaConf.select(training, key) for key in (*space.drawn, *space.fixed)}


def train_overrides(overrides: Sequence[str], settings: Values) -> list[str]:
    """Return the overrides with which asr.train uses these settings, given the overrides of the search."""
    kept = [override for override in overrides if not within(override_key(override), OWN_NODES)]
    return identifying_overrides([*kept, *(f"{key}={_text(value)}" for key, value in settings.items())])


def show_setting(value: Any) -> str:
    """Return a short text for tables; commands have all digits."""
    return f"{value:.4g}" if isinstance(value, float) else as_typed(value)


def _text(value: Any) -> str:
    """Return a text that Hydra parses to the same value of the same type."""
    words = ("null", "true", "false", "nan", "inf")
    if isinstance(value, str) and (not re.fullmatch("[A-Za-z][A-Za-z_-]*", value) or value.lower() in words):
        return "'" + value.replace("'", "\\'") + "'"
    return as_typed(value)
