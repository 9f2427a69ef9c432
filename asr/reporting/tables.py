"""The report's tables: what was run, results, cost, examples, commands and versions."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from asr.reporting.analysis import Interval, Resampling, corpus_rate, counts_of, mean_rate
from asr.reporting.claims import Claims, Variant
from asr.reporting.groups import Group
from asr.reporting.page import Block, Cell, Code, Column, Heading, Section, Table, Text
from asr.reporting.published import librispeech, published_device, published_runs
from asr.reporting.tracked import LeftOut, StoredRun

PUBLISHED = "writeup (full scale, LibriSpeech; mean over utterances)"
EXAMPLES = 5  # utterances a test part
PACKAGES = ("python", "torch", "torchaudio", "lhotse", "audiomentations", "hydra-core", "mlflow", "jiwer", "numpy")
STATUS = {"FINISHED": "finished, not usable", "KILLED": "stopped", "FAILED": "failed", "RUNNING": "running or cut off"}


def opening(groups: Sequence[Group]) -> list[Block]:
    """Whether anything here may be set against the writeup's figures."""
    if any(group.is_full for group in groups):
        return []
    warning = (
        "Nothing here was run as the writeup did it, at full scale on all of LibriSpeech, so none of our figures may "
        "be compared with the writeup's as a reproduction. Ours show how the experiments do against each other, at the "
        "scale and on the corpus that stand above each table."
    )
    return [Text(warning, strong=True)]


def what_was_run(claims: Claims, groups: Sequence[Group], left_out: Sequence[LeftOut]) -> list[Block]:
    """The groups in words, and the runs that the report cannot use."""
    experiments = [[name, experiment.about] for name, experiment in claims.known.items()]
    blocks: list[Block] = [
        Heading("The experiments"),
        Table([Column("experiment", numeric=False), Column("what it is", numeric=False)], experiments),
        Heading("The groups"),
        Text("Runs are compared only within a group: one scale, one corpus, the same other settings."),
    ]
    for group in groups:
        blocks += [Heading(group.name, 4), *_described(group)]
    if left_out:
        blocks.append(Heading("Runs that are left out"))
        columns = [
            Column("run", numeric=False),
            Column("status", numeric=False),
            Column("epochs done"),
            Column("why", numeric=False),
        ]
        rows = [[run.name, STATUS.get(run.status, run.status.lower()), str(run.epochs), run.reason] for run in left_out]
        blocks.append(Table(columns, rows))
    return blocks


def _described(group: Group) -> list[Block]:
    blocks: list[Block] = []
    if group.is_synthetic:
        blocks.append(
            Text("The corpus is spoken by eSpeak NG, a synthesiser. It has LibriSpeech's part names, not its speech.")
        )
    elif group.is_full:
        blocks.append(Text("Full scale on all of LibriSpeech: these figures may be set against the writeup's."))
    sizes = librispeech()
    rows = []
    for role in ("train", "dev", "test"):
        for part, (utterances, hours) in sorted(group.kept_parts([role]).items()):
            size = sizes.get(part)
            rows.append([role, part, f"{utterances:,}", f"{hours:.2f}", *(
                [f"{size.utterances:,}", f"{size.hours:.1f}"] if size else ["-", "-"]
            )])  # fmt: skip
    columns = [Column("role", numeric=False), Column("part", numeric=False), Column("utterances", "used here"),
               Column("hours", "used here"), Column("utterances", "LibriSpeech's part of that name"),
               Column("hours", "LibriSpeech's part of that name")]  # fmt: skip
    return [*blocks, Table(columns, rows)]


def results(
    groups: Sequence[Group], others: Sequence[StoredRun], shown: Sequence[str], resampling: Resampling
) -> Section:
    """A table for each group and test part, with 95 % intervals over utterances and the writeup's figures beside."""
    blocks: list[Block] = [
        Text(
            "CER and WER of the checkpoint that dev chose, greedy decoding. Below a rate stands its 95 % interval: "
            f"percentile bootstrap, {resampling.samples:,} resamples of the test utterances. Of the corpus means all "
            "errors over all reference symbols, as the field reports it; the mean over utterances is what the "
            "writeup reports."
        )
    ]
    for group in groups:
        for part in group.parts:
            blocks += [Heading(f"{part}: {group.name}"), _results_table(group, part, shown, resampling)]
        blocks += _repeats(group)
    if not groups:
        blocks.append(Text("No run of an experiment is finished and whole."))
    if others:
        blocks += [Heading("Runs of other experiments, or of none"), _other_runs(others)]
    return Section("Results", blocks)


def _results_table(group: Group, part: str, shown: Sequence[str], resampling: Resampling) -> Table:
    ours = (f"ours, {group.scale} scale: mean over utterances", f"ours, {group.scale} scale: of the corpus")
    columns = [
        Column("experiment", numeric=False),
        *(Column(n, over) for over in (*ours, PUBLISHED) for n in ("CER", "WER")),
    ]
    return Table(columns, [_results_row(group, variant, part, resampling) for variant in _rows(group, shown)])


def _rows(group: Group, shown: Sequence[str]) -> list[Variant]:
    """Return these experiments, run or not, then what else was run."""
    first = [group.own(name) for name in shown]
    return first + [variant for variant in group.all_newest if variant not in first]


def _results_row(group: Group, variant: Variant, part: str, resampling: Resampling) -> list[Cell | str]:
    run = group.newest(variant)
    if run is None:
        return [group.label(variant), Cell(group.command_of(variant), "not run", code=True)]
    if part not in run.scored:
        return [group.label(variant), Cell("not scored on this part")]
    characters = counts_of({one.id: one.characters for one in run.scored[part]})
    words = counts_of({one.id: one.words for one in run.scored[part]})
    cells = [rate_cell(rate(counts, resampling)) for rate in (mean_rate, corpus_rate) for counts in (characters, words)]
    return [group.label(variant), *cells, *_published_cells(group, variant, part)]


def rate_cell(interval: Interval) -> Cell:
    """A rate in percent, with its interval below."""
    limits = "" if math.isnan(interval.low) else f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    return Cell(f"{100 * interval.value:.1f} %", limits)


def _published_cells(group: Group, variant: Variant, part: str) -> list[str]:
    published = published_runs().get(variant.experiment) if variant == group.own(variant.experiment) else None
    rates = published.rates.get(part) if published else None
    if rates is None:
        return ["-", "-"]
    return [f"{100 * rates.cer:.0f} %", "not stated" if rates.wer is None else f"{100 * rates.wer:.0f} %"]


def _repeats(group: Group) -> list[Block]:
    several = {variant: len(runs) for variant, runs in group.runs.items() if len(runs) > 1}
    listed = ", ".join(f"{group.label(variant)} ({count})" for variant, count in several.items())
    return [Text(f"Finished more than once, of which the newest is shown: {listed}.")] if several else []


def _other_runs(others: Sequence[StoredRun]) -> Table:
    columns = [
        Column("run", numeric=False),
        Column("part", numeric=False),
        Column("WER, corpus"),
        Column("CER, corpus"),
    ]
    return Table(columns, [
        [run.plan.name, part, f"{100 * rates.words.rate:.1f} %", f"{100 * rates.characters.rate:.1f} %"]
        for run in others for part, rates in run.results.items()
    ])  # fmt: skip


def cost(groups: Sequence[Group]) -> Section:
    """What each run cost, with the writeup's runs below."""
    columns = [Column("run", numeric=False), *map(Column, (
        "utterances seen", "hours heard", "wall time", "speech s per s of training", "steps", "parameters",
    )), Column("device", numeric=False)]  # fmt: skip
    blocks: list[Block] = [Text("Wall time is that of all epochs, with the scoring of dev after each.")]
    for group in groups:
        rows = [[group.label(variant), *_cost(run), run.plan.device] for variant, run in group.all_newest.items()]
        blocks += [Heading(group.name), Table(columns, rows)]
    published = [
        [name, f"{run.steps * run.batch:,}", "-", _duration(run.wall_seconds), "-", f"{run.steps:,}",
         f"{run.parameters:,}", published_device()]
        for name, run in published_runs().items()
    ]  # fmt: skip
    return Section("Cost", [*blocks, Heading("writeup, full scale, LibriSpeech"), Table(columns, published)])


def _cost(run: StoredRun) -> list[str]:
    utterances, heard = run.total("train_utterances"), run.total("train_audio_seconds")
    training, dev = run.total("train_wall_seconds"), run.total("dev_wall_seconds")
    return [
        "-" if utterances is None else f"{utterances:,.0f}",
        "-" if heard is None else f"{heard / 3600:.2f}",
        "-" if training is None or dev is None else _duration(training + dev),
        "-" if heard is None or not training else f"{heard / training:.1f}",
        f"{run.plan.total_steps:,}",
        f"{run.plan.parameters:,}",
    ]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def examples(groups: Sequence[Group]) -> Section:
    """The same few utterances of each part, spread evenly over the ids, as each experiment as configured heard them."""
    blocks: list[Block] = []
    columns = [Column("", numeric=False), Column("text", numeric=False), Column("CER")]
    for group in groups:
        for part in group.parts:
            blocks += [Heading(f"{part}: {group.name}"), Table(columns, _example_rows(group, part))]
    return Section("Examples", blocks)


def _example_rows(group: Group, part: str) -> list[list[Cell | str]]:
    texts = {
        variant: {one.id: one for one in run.scored[part]}
        for variant, run in group.all_newest.items()
        if part in run.scored and variant == group.own(variant.experiment)
    }
    if not texts:
        return [["-", "no experiment was run as configured", ""]]
    shared = sorted(set.intersection(*(set(scored) for scored in texts.values())))
    places = np.linspace(0, len(shared) - 1, min(EXAMPLES, len(shared))).round().astype(int)
    rows: list[list[Cell | str]] = []
    for id in (shared[place] for place in places):
        rows.append([Cell(id), Cell(next(iter(texts.values()))[id].reference, "what was said"), ""])
        for variant, scored in texts.items():
            heard = scored[id]
            rows.append(
                [group.label(variant), heard.hypothesis.strip() or "(nothing)", f"{100 * heard.characters.rate:.0f} %"]
            )
    return rows


def commands_and_versions(groups: Sequence[Group], others: Sequence[StoredRun], report_command: str) -> Section:
    """How to get the same again."""
    runs = [run for group in groups for run in group.all_newest.values()] + list(others)
    columns = [Column("command", numeric=False), Column("commit", numeric=False), Column("device", numeric=False)]
    rows: list[list[Cell | str]] = [[Cell(run.plan.command, code=True), _commit(run), run.plan.device] for run in runs]
    packages = [[name, _versions(run.packages.get(name, "not installed") for run in runs)] for name in PACKAGES]
    return Section(
        "Commands and versions",
        [
            Table(columns, rows),
            Text("This report:"),
            Code(report_command),
            Table([Column("package", numeric=False), Column("version", numeric=False)], packages),
        ],
    )


def _commit(run: StoredRun) -> Cell:
    return Cell(run.commit[:10], "with uncommitted changes, see start/git_diff.patch of the run" if run.dirty else "")


def _versions(versions: Iterable[str]) -> str:
    counted = Counter(versions)
    return ", ".join(version if len(counted) == 1 else f"{version} ({n} runs)" for version, n in counted.items())
