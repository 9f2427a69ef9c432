"""Intervals, p-values and verdicts on inputs whose answers are known."""

import math
from dataclasses import replace
from time import perf_counter

import kaldialign
import numpy as np
import pytest

from asr.metrics import ErrorCounts, Scored, score
from asr.reporting.intervals import (
    Errors,
    Interval,
    Resampling,
    are_paired,
    count_errors,
    draw_utterances,
    paired_difference,
    resampled,
)
from asr.reporting.verdicts import Verdict, verdict_of, verdict_of_all

RESAMPLING = Resampling(1000, 1)
LENGTHS = np.random.default_rng(0).integers(20, 120, 250)


def counts(rate: float, seed: int, lengths: np.ndarray = LENGTHS, seeds: int = 1) -> Errors:
    """Utterances of unknown speakers in which every symbol is wrong with the probability `rate`."""
    ids = tuple(f"{n:04}" for n in range(len(lengths)))
    errors = np.random.default_rng(seed).binomial(lengths, rate, (seeds, len(lengths))).astype(float)
    return Errors(ids, ids, None, lengths.astype(float), errors)


def spoken(seed: int, speakers: int, spread: float, seeds: int = 1) -> Errors:
    """20 utterances of each speaker; the speakers' rates have the mean 0.3 and the standard deviation `spread`."""
    random = np.random.default_rng(seed)
    rates = np.clip(random.normal(0.3, spread, speakers), 0, 1).repeat(20)
    names = tuple(f"speaker {n}" for n in range(speakers) for _ in range(20))
    lengths = random.integers(20, 120, len(names))
    errors = random.binomial(lengths, rates, (seeds, len(names))).astype(float)
    return Errors(tuple(map(str, range(len(names)))), names, names, lengths.astype(float), errors)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def covered(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in intervals]))


def test_every_measure_of_known_counts() -> None:
    characters = {"b": ErrorCounts(1, 0, 1, 10), "a": ErrorCounts(0, 3, 0, 30), "c": ErrorCounts(0, 0, 0, 0)}
    scored = [Scored(id, "", "", ErrorCounts(0, 1, 0, 2), counted, "me") for id, counted in characters.items()]
    expected = {"cer": 5 / 41, "mean_cer": (0.1 + 0.2 + 0.0) / 3, "wer": 3 / 6, "mean_wer": 1 / 2}
    for measure, rate in expected.items():
        counted = count_errors([scored], measure)
        assert counted.ids == ("a", "b", "c")
        assert resampled([counted], RESAMPLING).value == pytest.approx(counted.rate) == pytest.approx(rate)
    assert count_errors([scored], "cer").speakers == ("me",) * 3
    assert count_errors([[*scored[:2], scored[2]._replace(speaker=None)]], "cer").speakers is None


def test_seeds_are_one_sample_of_the_same_utterances() -> None:
    seeds = [[score("a", "old boat", "old boat"), score("b", "see", text)] for text in ("sea", "see")]
    both = count_errors(seeds, "wer")
    assert both.errors.tolist() == [[0, 1], [0, 0]]
    assert both.rate == pytest.approx(0.5 / 3)
    with pytest.raises(ValueError, match="same utterances"):
        count_errors([seeds[0], [score("a", "old goat", ""), score("b", "see", "")]], "wer")


@pytest.mark.parametrize("mean", [False, True])
def test_over_utterances_an_interval_is_as_wide_as_theory_says(mean: bool) -> None:
    samples = [counts(0.3, seed) for seed in range(100)]
    if mean:
        samples = [replace(one, errors=one.errors / one.length, length=np.ones(250)) for one in samples]
    intervals = [resampled([one], Resampling(300, seed)) for seed, one in enumerate(samples)]
    assert covered(intervals, 0.3) >= 0.88
    assert np.mean([*map(width, intervals)]) == pytest.approx(
        2 * 1.96 * math.sqrt(0.3 * 0.7 / LENGTHS.sum()), rel=0.2
    )  # fmt: skip


def test_speakers_are_drawn_and_then_as_many_utterances_as_they_have() -> None:
    speakers = ("a",) * 7 + ("b",) * 3 + ("c",)
    times = draw_utterances(speakers, 2000, (1, 0))
    of_speakers = [times[:, :7].sum(1), times[:, 7:10].sum(1), times[:, 10]]
    assert all((drawn % size == 0).all() for drawn, size in zip(of_speakers, (7, 3, 1), strict=True))
    assert (of_speakers[0] / 7 + of_speakers[1] / 3 + of_speakers[2] == 3).all()
    assert times.mean(0) == pytest.approx(1, abs=0.1)
    assert (draw_utterances(("a",) * 11, 50, (1, 0)).sum(1) == 11).all()


def test_intervals_over_speakers_cover_the_truth_and_those_over_utterances_do_not() -> None:
    samples = [spoken(seed, speakers=30, spread=0.1) for seed in range(400)]
    over_speakers = [resampled([one], RESAMPLING) for one in samples]
    alone = [resampled([replace(one, speakers=None)], RESAMPLING) for one in samples]
    assert 0.92 <= covered(over_speakers, 0.3) <= 0.98
    assert covered(alone, 0.3) < 0.6


def test_intervals_are_cautious_where_speakers_do_not_differ() -> None:
    """They are as wide as the spread within speakers counted twice, and a p-value below 0.05 is rarer than that."""
    both = [spoken(seed, speakers=30, spread=0.0, seeds=2) for seed in range(150)]
    pairs = [tuple(replace(one, errors=one.errors[n : n + 1]) for n in range(2)) for one in both]
    over_speakers = [width(resampled([first], RESAMPLING)) for first, _ in pairs]
    alone = [width(resampled([replace(first, speakers=None)], RESAMPLING)) for first, _ in pairs]
    assert np.mean(over_speakers) == pytest.approx(math.sqrt(2) * np.mean(alone), rel=0.05)
    assert np.mean([paired_difference([pair], RESAMPLING).p < 0.05 for pair in pairs]) < 0.05


def test_a_p_value_is_never_0_and_agrees_with_the_interval() -> None:
    better, worse = counts(0.3, 1), counts(0.5, 2)
    assert paired_difference([(worse, better)], RESAMPLING).p == pytest.approx(2 / 1001)
    assert paired_difference([(better, better)], RESAMPLING) == (0, 0, 0, 1)
    assert math.isnan(resampled([better], RESAMPLING).p)
    for seed in range(20):
        difference = paired_difference([(counts(0.305, seed), better)], RESAMPLING)
        assert (difference.p < 0.045) <= (not difference.low <= 0 <= difference.high) <= (difference.p < 0.055)


def test_seeds_that_disagree_make_an_interval_wider() -> None:
    alike = counts(0.3, 1, seeds=3)
    apart = replace(alike, errors=alike.errors * np.array([[0.5], [1.0], [1.5]]))
    assert resampled([apart], RESAMPLING).value == pytest.approx(alike.rate, rel=0.02)
    assert width(resampled([apart], RESAMPLING)) > 5 * width(resampled([alike], RESAMPLING))
    other = replace(alike, errors=alike.errors * 0.8)
    assert verdict_of(paired_difference([(alike, other)], RESAMPLING)) == Verdict.SUPPORTED
    assert verdict_of(paired_difference([(apart, other)], RESAMPLING)) == Verdict.UNDECIDED


def test_over_utterances_it_agrees_with_kaldialign() -> None:
    """Kaldialign gives the mean of the resampled WERs and the half of a normal 95 % interval."""
    random = np.random.default_rng(0)
    references = [" ".join(random.choice(["see", "the", "old", "boat"], random.integers(3, 12))) for _ in range(200)]
    heard = [[" ".join(word for word in text.split() if random.random() > lost) for text in references]
             for lost in (0.3, 0.28)]  # fmt: skip
    theirs = kaldialign.bootstrap_wer_ci(*([text.split() for text in texts] for texts in (references, *heard)))
    systems = [
        count_errors(
            [[score(f"{n:03}", *texts) for n, texts in enumerate(zip(references, hypotheses, strict=True))]], "wer"
        )
        for hypotheses in heard
    ]
    for name, system in zip(("system1", "system2"), systems, strict=True):
        ours = resampled([system], Resampling(4000, 1))
        assert ours.value == pytest.approx(theirs[name]["wer"], abs=0.002)
        assert width(ours) / 2 == pytest.approx(theirs[name]["ci95"], rel=0.1)
    improved = 1 - paired_difference([tuple(systems)], Resampling(4000, 1)).p / 2
    assert improved == pytest.approx(theirs["p_s2_improv_over_s1"], abs=0.03)


def test_intervals_can_be_repeated_and_do_without_spread() -> None:
    assert resampled([spoken(1, 12, 0.1, 3)], RESAMPLING) == resampled([spoken(1, 12, 0.1, 3)], RESAMPLING)
    assert resampled([counts(1.0, 1, LENGTHS[:2])], RESAMPLING)[:3] == (1.0, 1.0, 1.0)
    one = counts(0.5, 1, LENGTHS[:1])
    assert np.isnan(resampled([one], RESAMPLING)[1:]).all()
    assert np.isnan(paired_difference([(one, one)], RESAMPLING)[1:]).all()
    assert resampled([spoken(1, 1, 0.1)], RESAMPLING).low < 0.3 + 0.3, "one speaker leaves the utterances"


def test_2000_resamples_of_librispeechs_size_take_about_a_second() -> None:
    big = spoken(1, speakers=147, spread=0.1, seeds=3)
    start = perf_counter()
    paired_difference([(big, replace(big, errors=big.errors * 0.9))], Resampling(2000, 1))
    assert perf_counter() - start < 10, "0.5 s on a quiet core"


def test_what_is_resampled_is_said() -> None:
    many, few = spoken(1, 12, 0.1, 3), spoken(1, 3, 0.1)
    assert (many.levels, many.warning) == ("3 seeds, crossed with 12 speakers, then their utterances", "")
    assert few.levels == "3 speakers, then their utterances"
    assert "fewer than 10" in few.warning
    assert "unknown" in counts(0.3, 1).levels
    assert "unknown" in counts(0.3, 1).warning


def test_pairing_finds_a_difference_that_is_smaller_than_either_interval() -> None:
    hard = counts(0.3, 1)
    hard = replace(hard, errors=np.where(np.arange(250) % 2, hard.length, hard.errors))  # utterances differ much
    harder = replace(hard, errors=hard.errors + (np.arange(250) % 5 == 0))
    difference = paired_difference([(harder, hard)], RESAMPLING)
    assert difference.value == pytest.approx(50 / LENGTHS.sum())
    assert verdict_of(difference) == Verdict.SUPPORTED
    assert verdict_of(paired_difference([(hard, harder)], RESAMPLING)) == Verdict.CONTRADICTED
    assert verdict_of(resampled([harder, hard], RESAMPLING)) == Verdict.UNDECIDED


def test_a_pair_is_resampled_alike_even_if_one_of_it_has_no_speakers() -> None:
    """A run of an older version."""
    known = spoken(1, 12, 0.1)
    older = replace(known, speakers=None)
    assert paired_difference([(known, older)], RESAMPLING) == (0, 0, 0, 1)


def test_the_mean_over_pairs_is_the_mean_of_their_differences() -> None:
    pairs = [(counts(0.4, 1), counts(0.3, 2)), (counts(0.2, 3), counts(0.3, 4))]
    mean = paired_difference(pairs, RESAMPLING)
    assert mean.value == pytest.approx(np.mean([first.rate - second.rate for first, second in pairs]))
    assert verdict_of(mean) == Verdict.UNDECIDED
    fewer = counts(0.3, 2, LENGTHS[:-1])
    assert not are_paired([pairs[0][0], fewer])
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference([(counts(0.4, 1), fewer)], RESAMPLING)


def test_two_parts_may_differ_in_size_and_are_drawn_independently() -> None:
    difference = resampled([counts(0.5, 1, LENGTHS[:100]), counts(0.3, 2)], RESAMPLING)
    assert difference.low < 0.2 < difference.high
    assert verdict_of(difference) == Verdict.SUPPORTED
    same = counts(0.3, 1)
    one, apart = resampled([same], RESAMPLING), resampled([same, same], RESAMPLING)
    assert width(apart) == pytest.approx(math.sqrt(2) * width(one), rel=0.15)


def test_a_claim_on_each_needs_all() -> None:
    yes, no, open_, failed = (
        Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.UNDECIDED, Verdict.BOTH_FAILED)  # fmt: skip
    assert verdict_of_all([yes, yes]) == yes
    assert verdict_of_all([yes, open_]) == verdict_of_all([yes, failed]) == open_
    assert verdict_of_all([no, yes]) == no
    assert verdict_of_all([failed, failed]) == failed
