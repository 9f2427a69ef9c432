"""Curves of several runs in one picture: dev scores by utterances seen, learning rates by share of the training."""

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr.artifacts.plots import new_figure

COLOURS = {  # by experiment, the same in all pictures
    "exp1": "#d1662b",
    "exp2_clean": "#1f5fa8",
    "exp2_other": "#3aa0c9",
    "exp3": "#3a8f4d",
    "exp3_adam": "#8a5bb5",
    "exp3_sgd_one_cycle": "#c2a01d",
    "exp3_adam_one_cycle": "#b03a5b",
}


class Curve(NamedTuple):
    """A run's dev scores after each epoch; cer and wer are shares, means over utterances, None where unknown.

    seen: utterances trained on until then
    style: of the line, as matplotlib has it
    """

    label: str
    experiment: str
    style: str
    seen: Sequence[float]
    cer: Sequence[float | None]
    wer: Sequence[float | None]
    loss: Sequence[float | None]


class RateLine(NamedTuple):
    """A run's learning rate by the share of its steps that is done."""

    label: str
    experiment: str
    style: str
    share: Sequence[float]
    rate: Sequence[float]


def dev_curves(curves: Sequence[Curve]) -> Figure:
    """CER and WER (means over utterances) and loss on dev, over utterances seen on a logarithmic axis."""
    figure = new_figure(6.4)
    panels = figure.subplots(1, 3)
    titles = ("dev CER, mean over utterances, %", "dev WER, mean over utterances, %", "dev loss, CTC")
    for ax, title in zip(panels, titles, strict=True):
        _dress(ax, title, "utterances seen")
        ax.set_xscale("log")
    for curve in curves:
        columns = ([_percent(v) for v in curve.cer], [_percent(v) for v in curve.wer], curve.loss)
        for ax, values in zip(panels, columns, strict=True):
            _line(ax, curve, curve.seen, values)
    _legend(figure, panels[0])
    for ax in panels:
        ax.set_ylim(bottom=0.0)
    return figure


def learning_rates(lines: Sequence[RateLine]) -> Figure:
    """On a logarithmic axis."""
    figure = new_figure(4.6)
    ax = figure.subplots()
    _dress(ax, "learning rate", "share of the training done, %")
    ax.set_yscale("log")
    for line in lines:
        _line(ax, line, [100 * share for share in line.share], line.rate)
    _legend(figure, ax)
    return figure


def png(figure: Figure) -> bytes:
    """The picture's file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _dress(ax: Axes, title: str, x_label: str) -> None:
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x_label)
    ax.grid(color="#e4e6ea", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)


def _line(ax: Axes, of: Curve | RateLine, x: Sequence[float], y: Sequence[float | None]) -> None:
    ax.plot(x, [float("nan") if v is None else v for v in y], of.style, color=COLOURS[of.experiment], label=of.label,
            linewidth=1.8, marker="o" if len(x) == 1 else None)  # fmt: skip


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
