"""The search space of conf/search: the settings that a trial draws, those tied to them, and the resulting config."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from asr.cli import no_such_setting
from asr.config.naming import EXECUTION_KEYS, identifying_overrides
from asr.errors import InputError, first_line
from asr.settings import within

OWN_NODES = ("search", "study")  # the settings of the search; the rest of its config is that of asr.train
RANGE_FIELDS, CHOICE_FIELDS = {"key", "low", "high", "log", "step", "int"}, {"key", "choices"}
TIED_FIELDS = {"key", "value"}
_TWICE = "search: {key} occurs twice in search.space and search.tied; each key may be set once"
Values = Mapping[str, Any]
"""Settings by dotted key."""


@dataclass(frozen=True)
class Parameter:
    """A searched setting, by its dotted key."""

    key: str
    distribution: BaseDistribution

    @property
    def edges(self) -> list[Any]:
        """Return every choice, or both ends of the range."""
        d = self.distribution
        return list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]  # type: ignore[attr-defined]

    def suggest(self, trial: optuna.Trial) -> Any:
        """Draw the value of a trial."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return trial.suggest_categorical(self.key, d.choices)
        if isinstance(d, IntDistribution):
            return trial.suggest_int(self.key, d.low, d.high, step=d.step, log=d.log)
        assert isinstance(d, FloatDistribution)
        return trial.suggest_float(self.key, d.low, d.high, step=d.step, log=d.log)

    def holds(self, value: Any) -> bool:
        """Return whether the space contains the value."""
        if isinstance(self.distribution, CategoricalDistribution):
            return value in self.distribution.choices
        low, high = self.edges
        return type(value) in (int, float) and low <= value <= high

    def describe(self) -> str:
        """Return a line for the plan."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return f"{self.key}: {', '.join(_text(choice) for choice in d.choices)}"
        low, high = self.edges
        step = f", in steps of {d.step:g}" if d.step and not (isinstance(d, IntDistribution) and d.step == 1) else ""  # type: ignore[attr-defined]
        return f"{self.key}: {low:g} to {high:g}{', log scale' if d.log else ''}{step}"  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Space:
    """The searched settings, and for each key that is tied to them its name in search.tied."""

    parameters: tuple[Parameter, ...]
    tied: dict[str, str]

    def corners(self) -> list[dict[str, Any]]:
        """Return the fewest trials that contain every edge of every parameter."""
        count = max(len(parameter.edges) for parameter in self.parameters)
        return [{p.key: p.edges[min(number, len(p.edges) - 1)] for p in self.parameters} for number in range(count)]


def read_space(config: DictConfig, typed: Sequence[str]) -> Space:
    """Return the space that config.search describes.

    typed:  overrides of the command line, which must not set what the search sets
    raises: InputError if a key is unknown, occurs twice or is in `typed`, or a range is invalid
    """
    training = training_config(config)
    nodes: Any = OmegaConf.to_container(config.search.get("space") or OmegaConf.create(), resolve=True)
    if not nodes:
        raise InputError("search.space is empty: it must name at least one setting, as conf/search/lr.yaml does")
    parameters = tuple(_parameter(name, node) for name, node in nodes.items())
    for parameter in parameters:
        _validate_key(training, parameter.key)
    tied = _tied(config, training)
    keys = [*(parameter.key for parameter in parameters), *tied]
    typed_keys = {override.lstrip("+~").partition("=")[0] for override in typed}
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(_TWICE.format(key=key))
        if key in typed_keys:
            raise InputError(
                f"{key} is given on the command line, but this search sets it in every trial: remove it from the "
                "command line, or from the file in conf/search"
            )
    return Space(parameters, tied)


def _parameter(name: str, node: Any) -> Parameter:
    where = f"search.space.{name}={node}"
    fields = set(node) if isinstance(node, dict) else set()
    if not (RANGE_FIELDS >= fields >= {"key", "low", "high"} or fields == CHOICE_FIELDS):
        raise InputError(
            f"{where}: it must have key, low and high, and may have log, step and int; or it must have key and choices"
        )
    try:
        return Parameter(str(node["key"]), _distribution(node))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where}: {first_line(error)}. Correct it in conf/search, or by search.space.{name}.KEY=VALUE"
        ) from error


def _distribution(node: dict[str, Any]) -> BaseDistribution:
    """Return Optuna's distribution for a node of the space; raise ValueError or TypeError if it is invalid."""
    if "choices" in node:
        choices = node["choices"]
        if not isinstance(choices, list) or not all(
            c is None or isinstance(c, (bool, int, float, str)) for c in choices
        ):
            raise ValueError("choices must be a list of numbers, words, true, false or null")
        return CategoricalDistribution(choices)
    low, high, step, log = node["low"], node["high"], node.get("step"), node.get("log", False)
    kind = int if node.get("int", False) else float
    for field, value in (("low", low), ("high", high), ("step", step)):
        if value is not None and (type(value) not in (int, float) or kind(value) != value):
            raise ValueError(f"{field}={value} must be a {'whole ' if kind is int else ''}number")
    if low > high:
        raise ValueError(f"low={low} must not be above high={high}")
    if log and low <= 0:
        raise ValueError(f"log: true needs low above 0, not {low}")
    if kind is int:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _tied(config: DictConfig, training: DictConfig) -> dict[str, str]:
    tied: dict[str, str] = {}
    for name, node in (config.search.get("tied") or {}).items():
        if set(node) != TIED_FIELDS:
            raise InputError(f"search.tied.{name}: it must have key and value")
        _validate_key(training, node.key)
        if node.key in tied:
            raise InputError(_TWICE.format(key=node.key))
        tied[node.key] = str(name)
    return tied


def _present(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    level = OmegaConf.select(config, parent) if parent else config
    return OmegaConf.is_dict(level) and name in level


def _validate_key(training: DictConfig, key: str) -> None:
    """Raise an InputError unless the key is a single setting that affects what a run computes."""
    if not _present(training, key):
        raise InputError(f"search: {no_such_setting(training, key)}")
    if OmegaConf.is_config(OmegaConf.select(training, key)):
        raise InputError(f"search: {key} is not a single setting; search its settings, such as {key}.NAME")
    if within(key, EXECUTION_KEYS):
        raise InputError(f"search: {key} sets how a run is executed, not what it computes; search another setting")


def baseline(config: DictConfig, space: Space) -> dict[str, Any] | None:
    """Return the values of the config itself, for a trial to compare with; None if one is outside the space."""
    own = {p.key: OmegaConf.select(config, p.key) for p in space.parameters}
    return own if all(p.holds(own[p.key]) for p in space.parameters) else None


def space_facts(config: DictConfig, space: Space) -> dict[str, str]:
    """Return the lines of the plan about the searched and the tied settings."""
    ties: Any = OmegaConf.to_container(config.search.get("tied") or OmegaConf.create(), resolve=False)
    facts = {
        "space": "\n".join(parameter.describe() for parameter in space.parameters),
        "tied": "\n".join(f"{key} = {show_setting(ties[name]['value'])}" for key, name in space.tied.items()),
    }
    return {key: value for key, value in facts.items() if value}


def training_config(config: DictConfig) -> DictConfig:
    """Return the config as asr.train would compose it, with the output directory of the search."""
    training = OmegaConf.masked_copy(copy.deepcopy(config), [str(key) for key in config if key not in OWN_NODES])
    training.output_dir = config.output_dir  # its name depends on the settings of the search
    return training


def trial_settings(config: DictConfig, space: Space, values: Values) -> dict[str, Any]:
    """Return the values that a trial has drawn, and those tied to them."""
    drawn = copy.deepcopy(config)
    for key, value in values.items():
        OmegaConf.update(drawn, key, value)
    return {**values, **{key: drawn.search.tied[name].value for key, name in space.tied.items()}}


def with_settings(config: DictConfig, settings: Values) -> DictConfig:
    """Return the training config with these settings."""
    training = training_config(config)
    for key, value in settings.items():
        OmegaConf.update(training, key, value)
    return training


def train_overrides(overrides: Sequence[str], settings: Values) -> list[str]:
    """Return the overrides with which asr.train uses these settings, given the overrides of the search."""
    kept = [o for o in overrides if o.lstrip("+~").partition("=")[0].split(".")[0] not in OWN_NODES]
    return identifying_overrides([*kept, *(f"{key}={_text(value)}" for key, value in settings.items())])


def show_setting(value: Any) -> str:
    """Return a short text for tables; commands have all digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _text(value: Any) -> str:
    """Return a text that Hydra parses to the same value of the same type."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and (
        not re.fullmatch("[A-Za-z][A-Za-z_-]*", value) or value.lower() in ("null", "true", "false", "nan", "inf")
    ):
        return "'" + value.replace("'", "\\'") + "'"
    return str(value)
