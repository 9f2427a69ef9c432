"""Plot what augmentation does to an utterance, and how a training went. No window is ever opened."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

WIDTH_INCHES, DOTS_PER_INCH = 12.0, 100  # 1200 pixels wide
HERTZ = (250, 500, 1000, 2000, 4000, 8000, 16000)  # of the ticks
TRAIN, DEV, OTHER = "#8a8f98", "#1f5fa8", "#d1662b"


def spectrogram_pair(before: np.ndarray, after: np.ndarray, frame_seconds: float, max_hz: float, title: str) -> Figure:
    """Draw an utterance before and after augmentation, one above the other, in one colour scale.

    before, after: (F, T) and (F, T') log-mel; the lengths may differ
    max_hz:        the upper edge of the highest mel filter
    """
    pictures = [np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)]
    bins = len(pictures[0])
    figure = new_figure(6.4)
    figure.set_layout_engine("none")  # finding the places that are given here takes half of the time
    low, high = _colour_range(*pictures)
    places = {"left": 0.065, "right": 0.885, "bottom": 0.09, "top": 0.88, "hspace": 0.22}
    axes = figure.subplots(2, 1, sharex=True, gridspec_kw=places)
    positions = zip(_mel_positions(np.array(HERTZ), bins, max_hz), HERTZ, strict=True)
    ticks = {f"{hertz:,}": min(place, bins) for place, hertz in positions if place >= 0 and hertz <= max_hz}
    for ax, picture, name in zip(axes, pictures, ("before", "after"), strict=True):
        extent = (0.0, picture.shape[1] * frame_seconds, 0.0, float(bins))
        image = ax.imshow(
            picture, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high,
            interpolation="nearest",
        )  # fmt: skip
        ax.set_title(name, loc="left", fontsize=11)
        ax.set_ylabel("Hz (mel scale)")
        ax.set_yticks(list(ticks.values()), list(ticks))
    axes[0].set_xlim(0.0, max(picture.shape[1] for picture in pictures) * frame_seconds)
    axes[1].set_xlabel("seconds")
    bar = figure.add_axes((0.9, 0.09, 0.014, 0.79))
    figure.colorbar(image, cax=bar, label="log-mel energy", extend="both")
    figure.suptitle(title, fontsize=13)
    return figure


def _mel_positions(hertz: np.ndarray, bins: int, max_hz: float) -> np.ndarray:
    """Return where frequencies lie on an axis on which bin i is drawn from i to i + 1.

    The centres of the bins and the two edges, 0 and max_hz, are evenly spaced on the mel scale.
    source: HTK's mel scale, torchaudio's default
    """
    return np.log10(1 + hertz / 700) / np.log10(1 + max_hz / 700) * (bins + 1) - 0.5


def _colour_range(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return the ends of the colour scale. Masks are far below speech, so the low end is taken before them."""
    finite = [picture[np.isfinite(picture)] for picture in (before, after)]
    if not all(len(values) for values in finite):
        return 0.0, 1.0
    low = float(np.percentile(finite[0], 1.0))
    high = max(float(np.percentile(values, 99.9)) for values in finite)
    return low, max(high, low + 1e-3)


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss, error rates and learning rate by epoch, and mark the best dev WER.

    history: of each epoch train_loss, dev_loss, dev_wer, dev_cer (shares, 0.25 is 25 %), learning_rate and, where it
             does not count from 1, epoch; what is absent, None or not finite is a gap
    """
    epochs = np.array([record.get("epoch", number) for number, record in enumerate(history, start=1)])

    def column(name: str) -> np.ndarray:
        values = np.array([record.get(name) for record in history], dtype=np.float64)  # None becomes nan
        return np.where(np.isfinite(values), values, np.nan)

    figure = new_figure(6.8)
    panels = figure.subplot_mosaic([["loss", "errors"], ["rate", "rate"]], height_ratios=[2.6, 1.0])
    wer = 100 * column("dev_wer")
    for panel, values, colour, label in (
        ("loss", column("train_loss"), TRAIN, "train"),
        ("loss", column("dev_loss"), DEV, "dev"),
        ("errors", wer, DEV, "WER"),
        ("errors", 100 * column("dev_cer"), OTHER, "CER"),
        ("rate", column("learning_rate"), TRAIN, ""),
    ):
        marker = "o" if len(epochs) <= 30 else None
        panels[panel].plot(epochs, values, color=colour, label=label, linewidth=1.8, marker=marker, markersize=4)
    lowest = ""
    if np.isfinite(wer).any():
        best = int(np.nanargmin(wer))
        panels["errors"].plot(epochs[best], wer[best], "o", markersize=10, markerfacecolor="none", markeredgecolor=DEV)
        lowest = f"; lowest WER {wer[best]:.1f} % in epoch {epochs[best]:g}"
    titles = {"loss": "CTC loss", "errors": f"dev error rate, %{lowest}", "rate": "learning rate"}
    for name, ax in panels.items():
        set_up_axes(ax, titles[name], "epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlim(min(epochs, default=1) - 0.5, max(epochs, default=1) + 0.5)
        if name != "rate":
            ax.legend(frameon=False)
        if name != "loss":
            ax.set_ylim(bottom=0.0)
    panels["rate"].yaxis.set_major_formatter("{x:g}")
    return figure


def set_up_axes(ax: Axes, title: str, x_label: str) -> None:
    """Give a panel its title, a label below and a grid."""
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x_label)
    ax.grid(color="#e4e6ea", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)


def new_figure(height_inches: float) -> Figure:
    """Return an empty figure, 1200 pixels wide as a PNG."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """Return the content of the figure's file; kind: png or svg."""
    buffer = BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def save_picture(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and, beside it, as SVG for papers; return both paths."""
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in paths:
        file.write_bytes(render(figure, file.suffix[1:]))
    return paths
