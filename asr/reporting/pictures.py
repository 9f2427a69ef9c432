"""The report's pictures and sounds: learning curves, learning rates, augmentation before and after."""

import io
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import PurePath

import soundfile
from matplotlib.figure import Figure

from asr.artifacts.plots import render
from asr.reporting.charts import Line, dev_curves, learning_rates
from asr.reporting.claims import Claims, Variant
from asr.reporting.groups import Group
from asr.reporting.page import Media
from asr.reporting.published import learning_rate_curve, published_runs
from asr.reporting.tracked import RunStore, StoredRun, UnreadableError

STYLES = ("-", ":", "-.", "--")  # by the place of the augmentation in a comparison
POINTS = 1000  # of a published schedule


def curves(claims: Claims, groups: Sequence[Group]) -> dict[str, list[Media]]:
    """Draw dev scores by utterances seen, of each group: ours beside the writeup's, and each comparison."""
    order = list(claims.known)
    published = [_published_curve(name, order.index(name)) for name in published_runs() if name in claims.experiments]
    shown: dict[str, list[Media]] = {}
    for number, group in enumerate(groups, start=1):
        own = [group.own(name) for name in claims.experiments]
        ours = [_curve(group, v, "-", f"{group.label(v)}, ours ({group.scale})") for v in own if group.newest(v)]
        caption = f"Dev scores by utterances seen: ours at {group.name}, and the writeup"
        shown[group.name] = [_picture(f"curves-{number}", dev_curves([*ours, *published]), caption)]
        for name, comparison in claims.comparisons.items():
            if group.can_show(comparison):
                styles = {augment: STYLES[n % len(STYLES)] for n, augment in enumerate(comparison.augments)}
                lines = [
                    _curve(group, v, styles[v.augment], f"{v.experiment}, {v.augment}")
                    for v in comparison.variants
                    if group.newest(v)
                ]
                shown[group.name].append(
                    _picture(f"{name}-{number}", dev_curves(lines), f"{comparison.title}: {group.name}")
                )
    return shown


def _picture(name: str, figure: Figure, caption: str) -> Media:
    return Media(f"{name}.png", render(figure, "png"), caption, svg=render(figure, "svg"))


def _curve(group: Group, variant: Variant, style: str, label: str) -> Line:
    run = group.all_newest[variant]
    stage_before = group.stage_before(run)
    before = (stage_before.total("train_utterances") or 0.0) if stage_before else 0.0
    seen = [before + count for count in accumulate(float(record["train_utterances"]) for record in run.history)]
    columns = [[record.get(name) for record in run.history] for name in ("dev_mean_cer", "dev_mean_wer", "dev_loss")]
    return Line(label, list(group.experiments).index(variant.experiment), style, seen, columns)


def _published_curve(name: str, number: int) -> Line:
    epochs = published_runs()[name].epochs
    columns = [[getattr(epoch, column) for epoch in epochs] for column in ("dev_cer", "dev_wer", "dev_loss")]
    return Line(f"{name}, writeup (full)", number, "--", [epoch.seen for epoch in epochs], columns)


def rates(claims: Claims, groups: Sequence[Group]) -> dict[str, Media]:
    """Draw learning rates by share of the training, of each group and the writeup.

    One run stands for an experiment, as augmentation does not change its rates.
    """
    order = list(claims.known)
    published = [
        Line(f"{name}, writeup", order.index(name), "--", *_in_percent(*learning_rate_curve(name, POINTS)))
        for name in published_runs()
        if name in order
    ]
    shown = {}
    for number, group in enumerate(groups, start=1):
        runs = {variant.experiment: run for variant, run in reversed(group.all_newest.items()) if run.learning_rates}
        ours = [
            Line(f"{name}, ours", order.index(name), "-", *_in_percent(*_logged_rates(runs[name])))
            for name in order
            if name in runs
        ]
        if ours:
            caption = f"Learning rate by share of the training: {group.name}, and the writeup"
            shown[group.name] = _picture(f"learning-rates-{number}", learning_rates([*ours, *published]), caption)
    return shown


def _logged_rates(run: StoredRun) -> tuple[list[float], list[float]]:
    return [step / run.plan.total_steps for step, _ in run.learning_rates], [rate for _, rate in run.learning_rates]


def _in_percent(shares: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[Sequence[float]]]:
    return [100 * share for share in shares], [values]


def augmentation(store: RunStore, runs: Sequence[StoredRun]) -> dict[str, list[Media]]:
    """Return, of each choice of augment= that was used, one run's utterance before and after; wave_spec first."""
    used = sorted({run.augment for run in runs} - {"none"}, key=lambda name: (name != "wave_spec", name))
    return {
        augment: next(filter(None, (_media_of(store, run) for run in runs if run.augment == augment)), [])
        for augment in used
    }


def _media_of(store: RunStore, run: StoredRun) -> list[Media]:
    """Return what the run kept of its augmentation; nothing if that cannot be read."""
    try:
        names = [name for name in store.file_names(run.run_id, "augmentation") if name.endswith((".png", ".wav"))]
        paths = sorted(names, key=_place)
        return [_media(path, run.augment, store.read_file(run.run_id, path)) for path in paths]
    except UnreadableError:
        return []


def _place(path: str) -> tuple[int, int, str]:
    """Sort the whole chain first (picture, sound before, sound after), then its transforms by number."""
    file = PurePath(path)
    number = re.match(r"\d+", file.name)
    order = ["all.png", "before.wav", "all.wav"]
    return (int(number[0]) if number else 0, order.index(file.name) if file.name in order else len(order), file.name)


def _media(path: str, augment: str, content: bytes) -> Media:
    """Return a picture as it is, a sound as FLAC, in half the bytes."""
    file = PurePath(path)
    names = {"all.png": "before and after all transforms", "before.wav": "before", "all.wav": "after all transforms"}
    caption = f"{augment}: {names.get(file.name, re.sub('^[0-9]+_', '', file.stem))}"
    if file.suffix == ".png":
        return Media(f"{augment}-{file.name}", content, caption)
    try:
        samples, sample_rate = soundfile.read(io.BytesIO(content), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise UnreadableError(f"{path} is no sound file") from error
    flac = io.BytesIO()
    soundfile.write(flac, samples, sample_rate, format="FLAC")
    return Media(f"{augment}-{file.stem}.flac", flac.getvalue(), caption, "audio/flac")
