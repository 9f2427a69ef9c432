"""The report's pictures and sounds: learning curves, learning rates, augmentation before and after."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

import pandas as pd
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr.artifacts.plots import new_figure, render, set_up_axes
from asr.reporting.claims import Claims, Variant
from asr.reporting.groups import Group
from asr.reporting.published import published
from asr.reporting.runs import RunStore, StoredRun, UnreadableError

COLOURS = ("#d1662b", "#1f5fa8", "#3aa0c9", "#3a8f4d", "#8a5bb5", "#c2a01d", "#b03a5b", "#5c6570", "#7a4b2a", "#2a7a6f")
STYLES = ("-", ":", "-.", "--")  # by the place of the augmentation in a comparison
WHOLE = {"all.png": "before and after all transforms", "before.wav": "before", "all.wav": "after all transforms"}


@dataclass(frozen=True)
class Media:
    """A picture (PNG) or a sound (FLAC): a name for its file, its bytes and what it shows.

    svg: the same picture with vectors, which is written beside it
    """

    name: str
    content: bytes = field(repr=False)
    caption: str
    svg: bytes = field(default=b"", repr=False)

    @property
    def is_picture(self) -> bool:
        """Return whether it is a picture."""
        return self.name.endswith(".png")

    @property
    def path(self) -> str:
        """Its file beside report.md; what has no place in a file's name or a link becomes _."""
        name = re.sub(r"[^\w.-]+", "_", self.name)
        return f"pictures/{name}" if self.is_picture else f"sounds/{name}"


class Line(NamedTuple):
    """A run in a picture.

    number: of its experiment, which decides the colour
    style:  as matplotlib has it
    table:  the values to draw, by column; nan is a gap
    """

    label: str
    number: int
    style: str
    table: pd.DataFrame


def curves(claims: Claims, groups: Sequence[Group]) -> dict[str, list[Media]]:
    """Draw dev scores by utterances seen, of each group: ours beside the writeup's, and each comparison."""
    order = list(claims.known)
    theirs = [
        Line(f"{name}, writeup (full)", order.index(name), "--", run["epochs"])
        for name, run in published()["experiments"].items()
        if name in claims.experiments
    ]
    shown: dict[str, list[Media]] = {}
    for number, group in enumerate(groups, start=1):
        own = [group.own(name) for name in claims.experiments]
        ours = [_curve(group, v, "-", f"{group.label(v)}, ours ({group.scale})") for v in own if v in group.runs]
        caption = f"Dev scores by utterances seen: ours at {group.name}, and the writeup"
        shown[group.name] = [_picture(f"curves-{number}", dev_curves([*ours, *theirs]), caption)]
        for name, comparison in claims.comparisons.items():
            if len(variants := [variant for variant in comparison.variants if variant in group.runs]) > 1:
                styles = {augment: STYLES[n % len(STYLES)] for n, augment in enumerate(comparison.augments)}
                lines = [_curve(group, v, styles[v.augment], ", ".join(v)) for v in variants]
                caption = f"{comparison.title}: {group.name}"
                shown[group.name].append(_picture(f"{name}-{number}", dev_curves(lines), caption))
    return shown


def _curve(group: Group, variant: Variant, style: str, label: str) -> Line:
    """Return the line of a run. One that started from the best checkpoint of another continues that one's."""
    run = group.runs[variant]
    start = run.params.get("init_from")
    before = (
        r.totals.train_utterances for r in group.runs.values() if f"{r.params.get('output_dir')}/best.pt" == start
    )
    seen = run.history.train_utterances.cumsum() + next(before, 0.0)
    return Line(label, list(group.experiments).index(variant.experiment), style, run.history.assign(seen=seen))


def rates(claims: Claims, groups: Sequence[Group]) -> dict[str, list[Media]]:
    """Draw learning rates by share of the training, of each group and the writeup.

    One run stands for an experiment, as augmentation does not change its rates.
    """
    order = list(claims.known)
    theirs = [
        Line(f"{name}, writeup", order.index(name), "--", run["learning_rates"])
        for name, run in published()["experiments"].items()
        if name in order
    ]
    shown = {}
    for number, group in enumerate(groups, start=1):
        tables = {
            v.experiment: run.learning_rates for v, run in reversed(group.runs.items()) if len(run.learning_rates)
        }
        ours = [Line(f"{name}, ours", order.index(name), "-", tables[name]) for name in order if name in tables]
        if ours:
            caption = f"Learning rate by share of the training: {group.name}, and the writeup"
            shown[group.name] = [_picture(f"learning-rates-{number}", learning_rates([*ours, *theirs]), caption)]
    return shown


def dev_curves(lines: Sequence[Line]) -> Figure:
    """Draw CER and WER (shares, drawn in percent) and loss on dev over utterances seen, on a logarithmic axis."""
    figure = new_figure(6.4)
    axes = figure.subplots(1, 3)
    panels = [
        ("dev CER, mean over utterances, %", "dev_mean_cer", 100),
        ("dev WER, mean over utterances, %", "dev_mean_wer", 100),
        ("dev loss, CTC", "dev_loss", 1),
    ]
    for ax, (title, column, factor) in zip(axes, panels, strict=True):
        set_up_axes(ax, title, "utterances seen")
        ax.set_xscale("log")
        for line in lines:
            _plot(ax, line, line.table.seen, factor * line.table[column])
        ax.set_ylim(bottom=0.0)
    _add_legend(figure, axes[0])
    return figure


def learning_rates(lines: Sequence[Line]) -> Figure:
    """Draw learning rates over the share of the training, in percent, on a logarithmic axis.

    The axis begins at a hundredth of the lowest peak: a one-cycle schedule starts at a 25th of its peak, and its last
    steps go down to a 250,000th, which would leave little room for all else.
    """
    figure = new_figure(5.2)
    ax = figure.subplots()
    set_up_axes(ax, "learning rate", "share of the training done, %")
    ax.set_yscale("log")
    for line in lines:
        _plot(ax, line, 100 * line.table.share, line.table.learning_rate)
    peaks = [peak for line in lines if (peak := line.table.learning_rate.max()) > 0]
    if peaks:
        ax.set_ylim(min(peaks) / 100, max(peaks) * 1.5)
    _add_legend(figure, ax)
    return figure


def _plot(ax: Axes, line: Line, x: pd.Series, y: pd.Series) -> None:
    ax.plot(x, y, line.style, color=COLOURS[line.number % len(COLOURS)], label=line.label, linewidth=1.8,
            marker="o" if len(x) == 1 else None)  # fmt: skip


def _add_legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)


def _picture(name: str, figure: Figure, caption: str) -> Media:
    return Media(f"{name}.png", render(figure, "png"), caption, svg=render(figure, "svg"))


def augmentation(store: RunStore, runs: Sequence[StoredRun]) -> dict[str, list[Media]]:
    """Return, of each choice of augment= that was used, one run's utterance before and after; wave_spec first."""
    used = sorted({run.variant.augment for run in runs} - {"none"}, key=lambda name: (name != "wave_spec", name))
    return {
        augment: next(filter(None, (_media_of(store, run) for run in runs if run.variant.augment == augment)), [])
        for augment in used
    }


def _media_of(store: RunStore, run: StoredRun) -> list[Media]:
    """Return what the run kept of its augmentation; nothing if that cannot be read."""
    try:
        names = [name for name in store.file_names(run.run_id, "augmentation") if name.endswith((".png", ".wav"))]
        paths = sorted(names, key=_place)
        return [_media(path, run.variant.augment, store.read_file(run.run_id, path)) for path in paths]
    except (UnreadableError, ValueError, soundfile.LibsndfileError):
        return []


def _place(path: str) -> tuple[int, int | str]:
    """Sort the whole chain first, then its transforms by number, each picture before its sound."""
    name = PurePath(path).name
    return (0, list(WHOLE).index(name)) if name in WHOLE else (int(name.partition("_")[0]), name)


def _media(path: str, augment: str, content: bytes) -> Media:
    """Return a picture as it is, a sound as FLAC, in half the bytes."""
    file = PurePath(path)
    caption = f"{augment}: {WHOLE.get(file.name, file.stem.partition('_')[2])}"
    if file.suffix == ".png":
        return Media(f"{augment}-{file.name}", content, caption)
    samples, sample_rate = soundfile.read(io.BytesIO(content), dtype="int16")
    flac = io.BytesIO()
    soundfile.write(flac, samples, sample_rate, format="FLAC")
    return Media(f"{augment}-{file.stem}.flac", flac.getvalue(), caption)
