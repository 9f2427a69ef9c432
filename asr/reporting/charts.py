"""Curves of several runs in one picture: dev scores by utterances seen, learning rates by share of the training."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr.artifacts.plots import new_figure

COLOURS = ("#d1662b", "#1f5fa8", "#3aa0c9", "#3a8f4d", "#8a5bb5", "#c2a01d", "#b03a5b", "#5c6570", "#7a4b2a", "#2a7a6f")


class Line(NamedTuple):
    """A run in a picture.

    number: of its experiment, which decides the colour
    style:  as matplotlib has it
    y:      for each panel as many values as x has; None is a gap
    """

    label: str
    number: int
    style: str
    x: Sequence[float]
    y: Sequence[Sequence[float | None]]


def dev_curves(lines: Sequence[Line]) -> Figure:
    """Draw CER and WER (shares, drawn in percent) and loss on dev over utterances seen, on a logarithmic axis."""
    figure = new_figure(6.4)
    panels = figure.subplots(1, 3)
    titles = ("dev CER, mean over utterances, %", "dev WER, mean over utterances, %", "dev loss, CTC")
    for index, (ax, title, factor) in enumerate(zip(panels, titles, (100, 100, 1), strict=True)):
        _set_up(ax, title, "utterances seen")
        ax.set_xscale("log")
        for line in lines:
            _plot(ax, line, index, factor)
        ax.set_ylim(bottom=0.0)
    _add_legend(figure, panels[0])
    return figure


def learning_rates(lines: Sequence[Line]) -> Figure:
    """Draw learning rates over the share of the training, in percent, on a logarithmic axis.

    The axis begins at a hundredth of the lowest peak: a one-cycle schedule starts at a 25th of its peak, and its last
    steps go down to a 250,000th, which would leave little room for all else.
    """
    figure = new_figure(5.2)
    ax = figure.subplots()
    _set_up(ax, "learning rate", "share of the training done, %")
    ax.set_yscale("log")
    for line in lines:
        _plot(ax, line, 0, 1)
    peaks = [peak for line in lines if (peak := max((rate or 0.0 for rate in line.y[0]), default=0.0)) > 0]
    if peaks:
        ax.set_ylim(min(peaks) / 100, max(peaks) * 1.5)
    _add_legend(figure, ax)
    return figure


def _set_up(ax: Axes, title: str, x_label: str) -> None:
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x_label)
    ax.grid(color="#e4e6ea", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)


def _plot(ax: Axes, line: Line, panel: int, factor: float) -> None:
    values = [float("nan") if value is None else factor * value for value in line.y[panel]]
    ax.plot(line.x, values, line.style, color=COLOURS[line.number % len(COLOURS)], label=line.label, linewidth=1.8,
            marker="o" if len(values) == 1 else None)  # fmt: skip


def _add_legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
