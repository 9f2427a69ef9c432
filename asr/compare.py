"""python -m asr.compare: is one run better than another, by how much, and in which utterances?

python -m asr.compare outputs/runs/exp1 outputs/runs/exp2_other
python -m asr.compare runs=[outputs/runs/exp1,outputs/runs/exp2_other] parts=[test-clean]
"""

import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from rich.table import Column, Table

from asr.cli import entry_point
from asr.config.naming import shell_command
from asr.console import console, print_table
from asr.errors import InputError
from asr.files import write_text
from asr.reporting.comparison import (
    Change,
    Comparison,
    System,
    compare,
    default_folder,
    differing_settings,
    group_systems,
    load_run,
    shared_parts,
)
from asr.reporting.intervals import Interval, Resampling
from asr.reporting.page import render_page
from asr.settings import STRING, STRINGS, SWITCH, Rules, check, whole

RULES: Rules = {
    "runs": STRINGS,
    "parts": STRINGS.or_null,
    "seeds": SWITCH,
    "examples": whole(0),
    "bootstrap_samples": whole(1),
    "seed": whole(0),
    "output_dir": STRING.or_null,
}
PRINTED = 3  # utterances of each kind in the terminal
SETTINGS_PRINTED = 12


@entry_point("compare")
def main(config: DictConfig) -> None:
    """Compare every run with the first, print the differences, and write the page."""
    if OmegaConf.is_missing(config, "runs"):
        raise InputError("no runs are named: python -m asr.compare RUN_A RUN_B [...]; --help shows examples")
    check(config, RULES)
    paths = [Path(run) for run in config.runs]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise InputError(f"runs=[{','.join(config.runs)}]: name at least two, each once")
    if config.parts is not None and not config.parts:
        raise InputError("parts=[]: name at least one part, or leave it out for all")
    runs = [load_run(path) for path in paths]
    parts = shared_parts(runs, config.parts)
    first, *others = systems = group_systems(runs, config.seeds)
    resampling = Resampling(config.bootstrap_samples, config.seed)
    comparisons = [compare(part, first, other, resampling) for part in parts for other in others]
    differing = {other.letter: differing_settings(first, other) for other in others}
    page = Path(config.output_dir or default_folder(config.runs)) / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "systems": systems,
        "differing": differing,
        "comparisons": comparisons,
        "examples": config.examples,
        "resampling": resampling,
        "command": shell_command("asr.compare", HydraConfig.get().overrides.task),
    }
    write_text(render_page("comparison.html.j2", **content), page)
    print_systems(systems, differing)
    for comparison in comparisons:
        print_comparison(comparison, resampling, config.examples)
    console.print(f"The page, to open in a browser: {page}", soft_wrap=True)


def print_systems(systems: Sequence[System], differing: dict[str, list[str]]) -> None:
    """Print what each letter stands for, and in which settings it differs from the first."""
    for system in systems:
        console.print(_printable(f"{system.letter}  {system.paths}"), soft_wrap=True)
        settings = differing.get(system.letter, [])
        for difference in settings[:SETTINGS_PRINTED]:
            console.print(_printable(f"     {difference}"), style="dim", soft_wrap=True)
        if len(settings) > SETTINGS_PRINTED:
            console.print(f"     and {len(settings) - SETTINGS_PRINTED} more settings", style="dim")


def print_comparison(one: Comparison, resampling: Resampling, examples: int) -> None:
    """Print the rates of two systems on a part, their difference, and the utterances that changed the most."""
    a, b = one.first.letter, one.other.letter
    right = [Column(name, justify="right") for name in (a, b, f"{b} - {a}, points", "95 % interval", "p")]
    table = Table("", *right, box=None, pad_edge=False)
    for measure, rates in one.rates.items():
        table.add_row(
            measure.upper(), f"{rates.first.value:.2%}", f"{rates.other.value:.2%}", *_difference(rates.difference)
        )
    print_table(_printable(f"{one.part}: {b} against {a}"), table)
    console.print(
        f"{resampling.samples:,} resamples of {one.resampled}. {b} makes fewer errors in {len(one.better):,} "
        f"utterances, more in {len(one.worse):,} and as many in {one.same:,}.",
        style="dim",
        soft_wrap=True,
    )
    if one.warning:
        console.print(f"Beware: {one.warning}.", soft_wrap=True)
    for title, changes in (("better", one.better), ("worse", one.worse)):
        for change in changes[: min(PRINTED, examples)]:
            _print_change(f"{b} is {title}", change, (a, b))


def _print_change(title: str, change: Change, letters: tuple[str, str]) -> None:
    console.print(_printable(f"  {change.first.id}: {title} by {change.words}"), style="bold", soft_wrap=True)
    texts = (change.first.reference, change.first.hypothesis, change.other.hypothesis)
    for name, text in zip(("reference", *letters), texts, strict=True):
        console.print(_printable(f"    {name:<9}  {text or '(nothing)'}"), soft_wrap=True)


def _difference(interval: Interval) -> list[str]:
    points = [f"{100 * number:+.2f}" for number in interval[:3]]
    return [points[0], f"{points[1]} to {points[2]}", f"{interval.p:.4f}"]


def _printable(text: str) -> str:
    """Return text from a file without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def command() -> None:
    """Take `compare RUN_A RUN_B` for `compare runs=[RUN_A,RUN_B]`."""
    named = list(takewhile(lambda argument: "=" not in argument and not argument.startswith("-"), sys.argv[1:]))
    if named:
        quoted = [QuotedString(path, Quote.single).with_quotes() for path in named]
        sys.argv[1:] = [*sys.argv[1 + len(named) :], f"runs=[{','.join(quoted)}]"]
    main()


if __name__ == "__main__":
    command()
