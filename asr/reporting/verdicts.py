"""The report's findings and hypotheses: verdicts, and the numbers behind them."""

import math
from collections.abc import Sequence

from asr.reporting.analysis import FAILED_RATE, Interval, Resampling, Verdict
from asr.reporting.claims import CLAIMS, CLEAN, OTHER, Answer, Claim, Sample, answers, outcome_verdict
from asr.reporting.groups import EXP3_VARIANTS, Group, Variant
from asr.reporting.page import Badge, Block, Cell, Code, Column, Heading, Section, Table, Text

RULE = (
    "Rule: a claim names which of two CERs (of the corpus) is the higher one. It is supported if the 95 % interval of "
    "the difference, or of the mean difference over several pairs of runs, lies wholly above 0; contradicted if wholly "
    "below; else undecided. The runs of a pair differ only in what the claim is about, and are scored on the same "
    f"resampled utterances. Where both CERs are {100 * FAILED_RATE:.0f} % or more, neither model learned, so their "
    "difference says nothing: such a pair is shown but left out of the mean, and if no other is left, the verdict is "
    "that both failed."
)
BOTH_FAILED = (
    f"Both failed: with {100 * FAILED_RATE:.0f} % or more on both sides nothing was learned on either, so the "
    "difference says nothing."
)
CAVEAT = (
    "Each run has one seed. The intervals are over test utterances only: they do not tell how far another seed would "
    "have moved a model. A verdict holds for its group's scale and corpus."
)

LEARNS_BY = {
    "exp3": "SGD, exp3's cyclic rate",
    "exp3_adam": "Adam, exp3's cyclic rate",
    "exp3_sgd_one_cycle": "SGD, exp1's one-cycle rate",
    "exp3_adam_one_cycle": "Adam, exp2's one-cycle rate",
}

Answered = dict[str, list[Answer]]


def answer_all(group: Group, resampling: Resampling) -> Answered:
    """The answers to every claim, by its name."""
    return {claim.name: answers(claim, group, resampling) for claim in CLAIMS}


def overview(groups: Sequence[Group], answered: Sequence[Answered]) -> list[Block]:
    """All verdicts at a glance, of the groups that have any."""
    judged = [
        (g, of_group) for g, of_group in zip(groups, answered, strict=True) if any(map(_is_tested, of_group.values()))
    ]
    columns = [Column("claim", numeric=False), *(Column(group.name, numeric=False) for group, _ in judged)]
    rows = [
        [Cell(claim.name, claim.kind), *(Cell("", badges=_badges(of_group[claim.name])) for _, of_group in judged)]
        for claim in CLAIMS
    ]
    return [Heading("The verdicts"), Table(columns, rows), Text(CAVEAT)] if judged else []


def findings_and_hypotheses(groups: Sequence[Group], answered: Sequence[Answered]) -> Section:
    """Every claim on every group."""
    blocks: list[Block] = [Text(RULE), Text(CAVEAT)]
    for group, of_group in zip(groups, answered, strict=True):
        blocks += [Heading(group.name), *_factorial(group)]
        for claim in CLAIMS:
            if _is_tested(of_group[claim.name]):
                blocks += _claim(claim, of_group[claim.name], group)
        untested: list[list[Cell | str]] = [
            [claim.name, Cell(group.command(f"sweep={claim.sweep}"), code=True)]
            for claim in CLAIMS
            if not _is_tested(of_group[claim.name])
        ]
        if untested:
            columns = [Column("not testable yet", numeric=False), Column("run", numeric=False)]
            blocks.append(Table(columns, untested))
    return Section("Findings and hypotheses", blocks)


def _is_tested(its_answers: Sequence[Answer]) -> bool:
    """Whether there is anything to show: both runs of any pair, or why they cannot be compared."""
    return any(a.problem or any(outcome.difference for outcome in a.outcomes) for a in its_answers)


def _badges(its_answers: Sequence[Answer]) -> tuple[Badge, ...]:
    return tuple(Badge(f"{answer.question.name}: {answer.verdict}", answer.verdict) for answer in its_answers)


def _claim(claim: Claim, its_answers: Sequence[Answer], group: Group) -> list[Block]:
    columns = [
        Column("expected to be worse", numeric=False),
        Column("CER"),
        Column("expected to be better", numeric=False),
        Column("CER"),
        Column("difference, points"),
        Column("verdict", numeric=False),
    ]
    blocks: list[Block] = [
        Heading(claim.name, 4, _badges(its_answers)),
        Text(claim.text),
        Table(columns, [row for answer in its_answers for row in _rows(answer)]),
    ]
    untested = [answer for answer in its_answers if answer.verdict == Verdict.NOT_TESTABLE]
    for problem in sorted({answer.problem for answer in untested if answer.problem}):
        blocks.append(Text(f"Not testable: {problem}."))
    if any(not answer.problem for answer in untested):
        blocks += [Text("Runs are missing; this trains them:"), Code(group.command(f"sweep={claim.sweep}"))]
    if any(outcome.both_failed for answer in its_answers for outcome in answer.outcomes):
        blocks.append(Text(BOTH_FAILED))
    return blocks


def _rows(answer: Answer) -> list[list[Cell | str]]:
    rows: list[list[Cell | str]] = [
        [_named(outcome.contrast.worse), _rate(outcome.worse), _named(outcome.contrast.better), _rate(outcome.better),
         _points(outcome.difference), _badge(outcome_verdict(outcome))]
        for outcome in answer.outcomes
    ]  # fmt: skip
    if answer.mean:
        told = sum(outcome.difference is not None and not outcome.both_failed for outcome in answer.outcomes)
        mean = f"mean over {told} of {len(rows)} pairs"
        rows.append([Cell(mean, answer.question.name), "", "", "", _points(answer.mean), _badge(answer.verdict)])
    return rows


def _badge(verdict: Verdict) -> Cell:
    return Cell("", badges=(Badge(verdict, verdict),))


def _named(sample: Sample) -> Cell:
    return Cell(f"{sample.variant.experiment}, {sample.variant.augment}", sample.part)


def _rate(rate: float | None) -> str:
    return "not run" if rate is None else f"{100 * rate:.1f} %"


def _points(difference: Interval | None) -> Cell:
    if difference is None:
        return Cell("-")
    limits = "" if math.isnan(difference.low) else f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return Cell(f"{100 * difference.value:+.1f}", limits)


def _factorial(group: Group) -> list[Block]:
    """CERs of optimizer x learning rate x noise; nothing if only the writeup's own cell was run."""
    ran = [v for v in group.runs if v.experiment in EXP3_VARIANTS and v != Variant.of("exp3")]
    if not ran:
        return []
    augments = {"wave_spec": "with noise", "wave_spec_no_noise": "without noise"}
    cells = [(part, augment) for part in (CLEAN, OTHER) for augment in augments]
    columns = [Column("", numeric=False), *(Column(augments[augment], part) for part, augment in cells)]
    rows: list[list[Cell | str]] = [
        [Cell(LEARNS_BY[name], name), *(_cer(group, Variant(name, augment), part) for part, augment in cells)]
        for name in EXP3_VARIANTS
    ]
    return [
        Heading("Why did exp3 fail? CER by optimizer, learning rate and noise", 4),
        Table(columns, rows),
        Text(_one_change_at_a_time(group)),
    ]


def _one_change_at_a_time(group: Group) -> str:
    """Which change alone makes exp3 learn: the hypotheses below ask what costs errors, which is another question."""
    changes = {
        "as it is": Variant.of("exp3"),
        "without noise": Variant("exp3", "wave_spec_no_noise"),
        "with Adam": Variant.of("exp3_adam"),
        "with exp1's learning rates": Variant.of("exp3_sgd_one_cycle"),
    }
    told = []
    for change, variant in changes.items():
        run = group.newest(variant)
        if run and CLEAN in run.results:
            fails = run.results[CLEAN].characters.rate >= FAILED_RATE
            told.append(f"{change} it {'fails' if fails else 'learns'} ({_cer(group, variant, CLEAN)})")
    return f"What alone saves exp3, by the CER on {CLEAN}: {', '.join(told)}."


def _cer(group: Group, variant: Variant, part: str) -> str:
    run = group.newest(variant)
    return _rate(run.results[part].characters.rate if run and part in run.results else None)
