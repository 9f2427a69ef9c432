"""Make the report's pictures and sounds: learning curves, learning rates, augmentation before and after."""

import io
import re
from collections.abc import Container, Mapping, Sequence
from itertools import cycle
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from asr.artifacts.plots import new_figure, render, set_up_axes
from asr.reporting.claims import Claims
from asr.reporting.groups import Group
from asr.reporting.published import published
from asr.reporting.runs import RunStore, StoredRun, UnreadableError

COLOURS = ("#d1662b", "#1f5fa8", "#3aa0c9", "#3a8f4d", "#8a5bb5", "#c2a01d", "#b03a5b", "#5c6570", "#7a4b2a", "#2a7a6f")
STYLES = ("-", ":", "-.", "--")  # by the place of the augmentation in a comparison
WHOLE = {"all.png": "before and after all transforms", "before.wav": "before", "all.wav": "after all transforms"}


class Media(NamedTuple):
    """A picture or a sound: its path beside report.md, and what it shows."""

    path: str
    caption: str


class Line(NamedTuple):
    """A run in a picture; colour and style as matplotlib has them. Where a value of the table is nan, it has a gap."""

    label: str
    colour: str
    style: str
    table: pd.DataFrame


def curves(claims: Claims, groups: Sequence[Group], folder: Path) -> dict[str, list[Media]]:
    """Draw dev scores by utterances seen, of each group: ours beside the writeup's, and each comparison."""
    colours = _colours(claims)
    theirs = _writeups(claims.experiments, "epochs", "writeup (full)", colours)
    shown = {}
    for number, group in enumerate(groups, start=1):
        tables = {variant: _history(group, run) for variant, run in group.runs.items()}
        ours = [
            Line(f"{group.label(v)}, ours ({group.scale})", colours[v.experiment], "-", tables[v])
            for v in map(group.own, claims.experiments)
            if v in tables
        ]
        caption = f"Dev scores by utterances seen: ours at {group.name}, and the writeup"
        shown[group.name] = [_picture(folder, f"curves-{number}", dev_curves([*ours, *theirs]), caption)]
        for name, comparison in claims.comparisons.items():
            styles = dict(zip(comparison.augments, cycle(STYLES), strict=False))
            lines = [
                Line(", ".join(v), colours[v.experiment], styles[v.augment], tables[v])
                for v in comparison.variants
                if v in tables
            ]
            if len(lines) > 1:
                caption = f"{comparison.title}: {group.name}"
                shown[group.name].append(_picture(folder, f"{name}-{number}", dev_curves(lines), caption))
    return shown


def _colours(claims: Claims) -> dict[str, str]:
    """Return the colour of each experiment, the same in all pictures."""
    return dict(zip(claims.known, cycle(COLOURS), strict=False))


def _writeups(experiments: Container[str], table: str, label: str, colours: Mapping[str, str]) -> list[Line]:
    """Return the writeup's line of each of these experiments that it has; table: epochs or learning_rates."""
    return [
        Line(f"{name}, {label}", colours[name], "--", run[table])
        for name, run in published()["experiments"].items()
        if name in experiments
    ]


def _history(group: Group, run: StoredRun) -> pd.DataFrame:
    """Return a run's history with utterances seen, those of the run that it started from included."""
    histories = {f"{one.params.get('output_dir')}/best.pt": one.history for one in group.runs.values()}
    before = histories.get(run.params.get("init_from", ""), run.history[:0])
    return run.history.assign(seen=before.train_utterances.sum() + run.history.train_utterances.cumsum())


def rates(claims: Claims, groups: Sequence[Group], folder: Path) -> dict[str, list[Media]]:
    """Draw learning rates by share of the training, of each group and the writeup.

    One run stands for an experiment, as augmentation does not change its rates.
    """
    colours = _colours(claims)
    theirs = _writeups(claims.known, "learning_rates", "writeup", colours)
    shown = {}
    for number, group in enumerate(groups, start=1):
        tables = ((variant.experiment, run.learning_rates) for variant, run in reversed(group.runs.items()))
        logged = {name: table for name, table in tables if len(table)}
        ours = [Line(f"{name}, ours", colours[name], "-", logged[name]) for name in claims.known if name in logged]
        if ours:
            caption = f"Learning rate by share of the training: {group.name}, and the writeup"
            figure = learning_rates([*ours, *theirs])
            shown[group.name] = [_picture(folder, f"learning-rates-{number}", figure, caption)]
    return shown


def dev_curves(lines: Sequence[Line]) -> Figure:
    """Draw CER, WER and loss on dev over utterances seen, on a logarithmic axis."""
    figure = new_figure(6.4)
    panels = figure.subplots(1, 3)
    titles = {
        "dev_mean_cer": "dev CER, mean over utterances, %",
        "dev_mean_wer": "dev WER, mean over utterances, %",
        "dev_loss": "dev loss, CTC",
    }
    for ax, (column, title) in zip(panels, titles.items(), strict=True):
        set_up_axes(ax, title, "utterances seen")
        _plot(ax, lines, "seen", column)
        ax.set_xscale("log")
        ax.set_ylim(bottom=0.0)
        if column != "dev_loss":
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    _add_legend(figure)
    return figure


def learning_rates(lines: Sequence[Line]) -> Figure:
    """Draw learning rates over the share of the training, on a logarithmic axis.

    The axis begins at a hundredth of the lowest peak: a one-cycle schedule starts at a 25th of its peak, and its last
    steps go down to a 250,000th, which would leave little room for all else.
    """
    figure = new_figure(5.2)
    ax = figure.subplots()
    set_up_axes(ax, "learning rate", "share of the training done, %")
    _plot(ax, lines, "share", "learning_rate")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    if peaks := [peak for line in lines if (peak := line.table.learning_rate.max()) > 0]:
        ax.set_ylim(min(peaks) / 100, max(peaks) * 1.5)
    _add_legend(figure)
    return figure


def _plot(ax: Axes, lines: Sequence[Line], x: str, y: str) -> None:
    for line in lines:
        marker = "o" if len(line.table) == 1 else None
        ax.plot(x, y, line.style, data=line.table, color=line.colour, label=line.label, linewidth=1.8, marker=marker)


def _add_legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)


def _picture(folder: Path, name: str, figure: Figure, caption: str) -> Media:
    write_media(folder, f"{name}.svg", render(figure, "svg"), caption)
    return write_media(folder, f"{name}.png", render(figure, "png"), caption)


def write_media(folder: Path, name: str, content: bytes, caption: str) -> Media:
    """Write a picture or a sound; what has no place in a file's name or a link becomes _."""
    below = "sounds" if name.endswith(".flac") else "pictures"
    path = folder / below / re.sub(r"[^\w.-]+", "_", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Media(f"{below}/{path.name}", caption)


def augmentation(store: RunStore, runs: Sequence[StoredRun], folder: Path) -> dict[str, list[Media]]:
    """Return, of each choice of augment= that was used, one run's utterance before and after; wave_spec first."""
    used = sorted({run.variant.augment for run in runs} - {"none"}, key=lambda name: (name != "wave_spec", name))
    return {
        augment: next(filter(None, (_kept(store, run, folder) for run in runs if run.variant.augment == augment)), [])
        for augment in used
    }


def _kept(store: RunStore, run: StoredRun, folder: Path) -> list[Media]:
    """Return what a run kept of its augmentation, sounds as FLAC in half the bytes; nothing if it cannot be read."""
    kept = []
    try:
        names = store.file_names(run.run_id, "augmentation")
        for path in sorted((name for name in names if name.endswith((".png", ".wav"))), key=_place):
            file, content = PurePath(path), store.read_file(run.run_id, path)
            if file.suffix == ".wav":
                samples, sample_rate = soundfile.read(io.BytesIO(content), dtype="int16")
                flac = io.BytesIO()
                soundfile.write(flac, samples, sample_rate, format="FLAC")
                content = flac.getvalue()
            name = f"{run.variant.augment}-{file.name}".replace(".wav", ".flac")
            caption = f"{run.variant.augment}: {WHOLE.get(file.name, file.stem.partition('_')[2])}"
            kept.append(write_media(folder, name, content, caption))
    except (UnreadableError, ValueError, soundfile.LibsndfileError):
        return []
    return kept


def _place(path: str) -> tuple[int, int | str]:
    """Sort the whole chain first, then its transforms by number, each picture before its sound."""
    name = PurePath(path).name
    return (0, list(WHOLE).index(name)) if name in WHOLE else (int(name.partition("_")[0]), name)
