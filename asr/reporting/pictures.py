"""The report's pictures and sounds: learning curves, learning rates, augmentation before and after."""

import io
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import PurePath

import soundfile

from asr.reporting.charts import Curve, RateLine, dev_curves, learning_rates, png
from asr.reporting.groups import AUGMENT, EXP3_VARIANTS, WRITEUP, Group, Variant
from asr.reporting.page import Block, Heading, Media, Section, Text
from asr.reporting.published import published_runs
from asr.reporting.tracked import RunStore, StoredRun, UnreadableError

STYLES = {"wave_spec": "-", "wave_spec_no_noise": ":", "none": "-", "time_inversion": "-."}


def curves(groups: Sequence[Group]) -> Section:
    """Dev scores by utterances seen, ours beside the writeup's."""
    blocks: list[Block] = [
        Text(
            "Solid lines are ours, dashed lines the writeup's at full scale on LibriSpeech: compare their shapes, "
            "not their heights, unless the group is full scale on LibriSpeech too. exp2_other goes on where "
            "exp2_clean ended, if both were run. The writeup's WER of exp1 is left out: it was computed wrongly (0.19 "
            "where the CER is 1.0)."
        )
    ]
    for number, group in enumerate(groups, start=1):
        four = [Variant.of(name) for name in WRITEUP]
        ours = [_curve(group, v, "-", f"{v}, ours ({group.scale})") for v in four if group.newest(v)]
        picture = png(dev_curves([*ours, *(_published_curve(name) for name in WRITEUP)]))
        blocks += [
            Heading(group.name),
            Media(
                f"curves-{number}.png", picture, f"Dev scores by utterances seen: ours at {group.name}, and the writeup"
            ),
        ]
        variants = [v for v in group.all_newest if v.experiment in EXP3_VARIANTS]
        if set(variants) - set(four):
            lines = [_curve(group, v, STYLES.get(v.augment, "--"), f"{v.experiment}, {v.augment}") for v in variants]
            caption = f"exp3 and its variants at {group.name}; dotted: without noise"
            blocks.append(Media(f"exp3-variants-{number}.png", png(dev_curves(lines)), caption))
    return Section("Learning curves", blocks)


def _curve(group: Group, variant: Variant, style: str, label: str) -> Curve:
    run = group.all_newest[variant]
    stage_before = group.newest(Variant.of("exp2_clean")) if variant.experiment == "exp2_other" else None
    before = (stage_before.total("train_utterances") or 0.0) if stage_before else 0.0
    seen = [before + count for count in accumulate(float(record["train_utterances"]) for record in run.history)]
    columns = ([record.get(name) for record in run.history] for name in ("dev_mean_cer", "dev_mean_wer", "dev_loss"))
    return Curve(label, variant.experiment, style, seen, *columns)


def _published_curve(name: str) -> Curve:
    epochs = published_runs()[name].epochs
    columns = ([getattr(epoch, column) for epoch in epochs] for column in ("seen", "dev_cer", "dev_wer", "dev_loss"))
    return Curve(f"{name}, writeup (full)", name, "--", *columns)


def rates(groups: Sequence[Group]) -> Section:
    """Learning rates by share of the training; one run an experiment, as augmentation does not change them."""
    blocks: list[Block] = []
    for number, group in enumerate(groups, start=1):
        runs = {variant.experiment: run for variant, run in reversed(group.all_newest.items()) if run.learning_rates}
        lines = [_rate_line(experiment, runs[experiment]) for experiment in AUGMENT if experiment in runs]
        if lines:
            caption = f"Learning rate by share of the training: {group.name}"
            blocks += [Heading(group.name), Media(f"learning-rates-{number}.png", png(learning_rates(lines)), caption)]
    return Section("Learning rates", blocks or [Text("No run has logged a learning rate.")])


def _rate_line(experiment: str, run: StoredRun) -> RateLine:
    shares = [step / run.plan.total_steps for step, _ in run.learning_rates]
    return RateLine(experiment, experiment, "-", shares, [rate for _, rate in run.learning_rates])


def augmentation(store: RunStore, runs: Sequence[StoredRun]) -> Section:
    """Of each choice of augment= that was used, one run's utterance before and after; wave_spec first."""
    blocks: list[Block] = []
    for augment in sorted({run.augment for run in runs} - {"none"}, key=lambda name: (name != "wave_spec", name)):
        media = next(filter(None, (_media_of(store, run) for run in runs if run.augment == augment)), None)
        blocks += [Heading(f"augment={augment}"), *(media or ())]
        if not media:
            blocks.append(Text("No run has kept pictures of it."))
    return Section("Augmentation", blocks or [Text("No run trained with augmentation.")])


def _media_of(store: RunStore, run: StoredRun) -> list[Media]:
    """What the run kept of its augmentation; nothing if that cannot be read, so that another run is asked."""
    try:
        paths = sorted(store.file_names(run.run_id, "augmentation"), key=_place)
        media = [_media(path, run.augment, store.read_file(run.run_id, path)) for path in paths]
    except UnreadableError:
        return []
    return [one for one in media if one]


def _place(path: str) -> tuple[int, int, str]:
    """The whole chain first (picture, sound before, sound after), then its transforms by number."""
    file = PurePath(path)
    number = re.match(r"\d+", file.name)
    order = ["all.png", "before.wav", "all.wav"]
    return (int(number[0]) if number else 0, order.index(file.name) if file.name in order else len(order), file.name)


def _media(path: str, augment: str, content: bytes) -> Media | None:
    """A picture as it is, a sound as FLAC (half the bytes); nothing else is shown."""
    file = PurePath(path)
    names = {"all.png": "before and after all transforms", "before.wav": "before", "all.wav": "after all transforms"}
    caption = f"{augment}: {names.get(file.name, re.sub('^[0-9]+_', '', file.stem))}"
    if file.suffix == ".png":
        return Media(f"{augment}-{file.name}", content, caption)
    if file.suffix != ".wav":
        return None
    try:
        samples, sample_rate = soundfile.read(io.BytesIO(content), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise UnreadableError(f"{path} is no sound file") from error
    flac = io.BytesIO()
    soundfile.write(flac, samples, sample_rate, format="FLAC")
    return Media(f"{augment}-{file.stem}.flac", flac.getvalue(), caption, "audio/flac")
