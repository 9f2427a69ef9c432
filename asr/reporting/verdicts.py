"""The report's findings and hypotheses: verdicts, and the numbers behind them."""

import math
from collections.abc import Sequence

from asr.reporting.analysis import FAILED_RATE, Interval, Resampling, Verdict
from asr.reporting.answers import Answer, answers, outcome_verdict
from asr.reporting.claims import Claim, Claims, Comparison, Sample, Variant
from asr.reporting.groups import Group
from asr.reporting.page import Badge, Block, Cell, Code, Column, Heading, Section, Table, Text
from asr.reporting.tables import rate_cell

FAILED = f"{100 * FAILED_RATE:.0f} %"
RULES = (
    "A claim about errors names which of two error rates (a CER of the corpus, unless it says otherwise) is the higher "
    "one. It is supported if the 95 % "
    "interval of the difference, or of the mean difference over several pairs, lies wholly above 0; contradicted if "
    "wholly below; else undecided. Where no mean is given, each pair must hold. With a CER of "
    f"{FAILED} or more a model counts as failed. A pair in which both failed is shown but left out of the mean, and if "
    "no other is left, the verdict is that both failed.",
    "A claim that something made a model fail is supported if the model failed and, with that changed, learned; "
    f"contradicted if it failed both ways. Failed means that the CER's 95 % interval lies wholly at {FAILED} or above, "
    "learned that it lies wholly below; where an interval reaches to both sides, the claim is undecided. If the model "
    "did not fail in this sense (the writeup's exp3 did not, with 71 %), there is nothing to explain, and only what "
    "something costs can be asked. Several of these claims can be supported: then each of the changes is enough to "
    "make the model learn.",
    "Both models of a pair are scored on the same resampled utterances, unless they are scored on two test parts. What "
    "differs between the two is named beside them; where that is more than one setting, the verdict is about all of "
    "them together.",
)
BOTH_FAILED = f"Both failed: with a CER of {FAILED} or more on both sides, the difference says nothing."
EXPLAINED = {  # by the rule of the question
    ("mean", Verdict.BOTH_FAILED): BOTH_FAILED,
    ("each", Verdict.BOTH_FAILED): BOTH_FAILED,
    ("failure", Verdict.CONTRADICTED): "Contradicted: it fails as well without.",
    (
        "failure",
        Verdict.DID_NOT_FAIL,
    ): f"The model did not fail: its CER is below {FAILED}. There is nothing to explain.",
}
CAVEAT = (
    "Each run has one seed. The intervals are over test utterances only: they do not tell how far another seed would "
    "have moved a model. A verdict holds for its group's scale and corpus."
)

Answered = dict[str, list[Answer]]


def answer_all(claims: Claims, group: Group, resampling: Resampling) -> Answered:
    """Return the answers to every claim, by its name."""
    return {name: answers(claim, group, resampling) for name, claim in claims.claims.items()}


def overview(claims: Claims, groups: Sequence[Group], answered: Sequence[Answered]) -> list[Block]:
    """All verdicts at a glance, of the groups that have any."""
    judged = [
        (g, of_group) for g, of_group in zip(groups, answered, strict=True) if any(map(_is_tested, of_group.values()))
    ]
    columns = [Column("claim", numeric=False), *(Column(group.name, numeric=False) for group, _ in judged)]
    rows = [
        [Cell(name, claim.kind), *(Cell("", badges=_badges(of_group[name])) for _, of_group in judged)]
        for name, claim in claims.claims.items()
    ]
    return [Heading("The verdicts"), Table(columns, rows), Text(CAVEAT)] if judged else []


def findings_and_hypotheses(claims: Claims, groups: Sequence[Group], answered: Sequence[Answered]) -> Section:
    """Every claim on every group."""
    blocks: list[Block] = [*map(Text, RULES), Text(CAVEAT)]
    for group, of_group in zip(groups, answered, strict=True):
        blocks.append(Heading(group.name))
        for comparison in claims.comparisons.values():
            blocks += _compared(comparison, group)
        for name, claim in claims.claims.items():
            if _is_tested(of_group[name]):
                blocks += _claim(name, claim, of_group[name], group)
        untested: list[list[Cell | str]] = [
            [name, Cell("; ".join(commands(claim, group)), code=True)]
            for name, claim in claims.claims.items()
            if not _is_tested(of_group[name])
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


def commands(claim: Claim, group: Group) -> list[str]:
    """Return what trains the claim's runs: its sweep, or a command for each run that is missing."""
    if claim.sweep:
        return [group.command(f"sweep={claim.sweep}")]
    missing = dict.fromkeys(sample.variant for sample in claim.samples if not group.newest(sample.variant))
    return [group.command_of(variant) for variant in missing]


def _claim(name: str, claim: Claim, its_answers: Sequence[Answer], group: Group) -> list[Block]:
    measure = claim.measure.upper().replace("MEAN_", "mean ")
    columns = [
        Column("expected to be worse", numeric=False),
        Column(measure),
        Column("expected to be better", numeric=False),
        Column(measure),
        Column("what differs", numeric=False),
        Column("difference, points"),
        Column("verdict", numeric=False),
    ]
    blocks: list[Block] = [
        Heading(name, 4, _badges(its_answers)),
        Text(claim.text),
        Table(columns, [row for answer in its_answers for row in _rows(answer)]),
    ]
    untested = [answer for answer in its_answers if answer.verdict == Verdict.NOT_TESTABLE]
    for problem in sorted({answer.problem for answer in untested if answer.problem}):
        blocks.append(Text(f"Not testable: {problem}."))
    if any(not answer.problem for answer in untested):
        blocks += [Text("Runs are missing; this trains them:"), Code("\n".join(commands(claim, group)))]
    verdicts = {
        (answer.question.rule, outcome_verdict(answer.question, outcome))
        for answer in its_answers for outcome in answer.outcomes
    }  # fmt: skip
    return blocks + [Text(words) for case, words in EXPLAINED.items() if case in verdicts]


def _rows(answer: Answer) -> list[list[Cell | str]]:
    rows: list[list[Cell | str]] = [
        [_named(outcome.pair.worse), _rate(outcome.worse), _named(outcome.pair.better), _rate(outcome.better),
         ", ".join(outcome.differs) or "-", _points(outcome.difference),
         _badge(outcome_verdict(answer.question, outcome))]
        for outcome in answer.outcomes
    ]  # fmt: skip
    if answer.mean:
        told = sum(outcome.difference is not None and not outcome.both_failed for outcome in answer.outcomes)
        mean = f"mean over {told} of {len(rows)} pairs"
        rows.append([Cell(mean, answer.question.name), "", "", "", "", _points(answer.mean), _badge(answer.verdict)])
    return rows


def _badge(verdict: Verdict) -> Cell:
    return Cell("", badges=(Badge(verdict, verdict),))


def _named(sample: Sample) -> Cell:
    return Cell(f"{sample.experiment}, {sample.augment}", sample.part)


def _rate(rate: Interval | None) -> Cell:
    return Cell("not run") if rate is None else rate_cell(rate)


def _points(difference: Interval | None) -> Cell:
    if difference is None:
        return Cell("-")
    limits = "" if math.isnan(difference.low) else f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return Cell(f"{100 * difference.value:+.1f}", limits)


def _compared(comparison: Comparison, group: Group) -> list[Block]:
    """CERs of experiments by augmentations; nothing if too few of them were run."""
    if not group.can_show(comparison):
        return []
    cells = [(part, augment) for part in comparison.parts for augment in comparison.augments]
    columns = [Column("CER", numeric=False), *(Column(augment, part) for part, augment in cells)]
    rows: list[list[Cell | str]] = [
        [
            Cell(name, group.experiments[name].about),
            *(_cer(group, Variant(name, augment), part) for part, augment in cells),
        ]
        for name in comparison.experiments
    ]
    return [Heading(comparison.title, 4), Table(columns, rows)]


def _cer(group: Group, variant: Variant, part: str) -> str:
    run = group.newest(variant)
    return f"{100 * run.results[part].characters.rate:.1f} %" if run and part in run.results else "not run"
