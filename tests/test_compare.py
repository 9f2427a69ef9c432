"""python -m asr.compare on small directories of asr.train and asr.evaluate, read back as text and as a page."""

import json
import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import COMMANDS
from hydra.core.hydra_config import HydraConfig

from asr.artifacts.error_table import write_utterances
from asr.metrics import Scored, score

WORDS = ("see", "the", "old", "boat")
SETTINGS = {"seed": 1, "optimizer": {"lr": 0.1}, "decode": {"_target_": "greedy"}, "workers": 1}


def transcripts(kept: float, seed: int = 1, speakers: int | None = 12, utterances: int = 60) -> list[Scored]:
    """Utterances in which each word is kept with this probability; the references are the same in all."""
    spoken, lost = random.Random(0), random.Random(seed)
    scored = []
    for n in range(utterances):
        reference = [spoken.choice(WORDS) for _ in range(6)]
        hypothesis = " ".join(word for word in reference if lost.random() < kept)
        known = {"speaker": f"s{n % speakers}"} if speakers else {}
        scored.append(score(f"id-{n:02}", " ".join(reference), hypothesis, **known))
    return scored


def write_run(directory: Path, scored: list[Scored], settings: dict | None = None, part: str = "test-clean") -> str:
    write_utterances(scored, directory / "errors" / part)
    (directory / "results.json").write_text("{}")
    if settings is not None:
        (directory / "config.json").write_text(json.dumps(settings))
    return str(directory)


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Call the command; return what it printed, and the page."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        monkeypatch.setattr(sys, "argv", ["asr.compare", *arguments, "bootstrap_samples=300"])
        COMMANDS["compare"]()
        (page,) = tmp_path.glob("outputs/comparisons/*/index.html")
        return capsys.readouterr().out, page.read_text()

    return call


@pytest.fixture
def refused(compare, capsys):
    """Call the command, which must end with one paragraph and no page; return the paragraph."""

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            compare(*arguments)
        assert stop.value.code == 2
        assert not Path("outputs").exists()
        paragraph = capsys.readouterr().err
        assert paragraph.count("\n") == 1
        return paragraph

    return call


def row(printed: str, measure: str) -> list[str]:
    return re.search(rf"^{measure} +(.*)$", printed, re.MULTILINE)[1].split()


def test_a_better_run_is_found_and_its_difference_and_settings_are_shown(compare, tmp_path) -> None:
    a = write_run(tmp_path / "a", transcripts(0.7), SETTINGS)
    b = write_run(tmp_path / "b", transcripts(0.9, seed=2), SETTINGS | {"optimizer": {"lr": 0.2}, "workers": 9})
    printed, page = compare(a, b)
    first, other, difference, low, _, high, p = row(printed, "WER")
    rates = [sum(one.words.deletions for one in scored) / 360 for scored in (transcripts(0.7), transcripts(0.9, 2))]
    assert [first, other] == [f"{rate:.2%}" for rate in rates]
    assert float(difference) == pytest.approx(100 * (rates[1] - rates[0]), abs=0.01)
    assert float(low) < float(difference) < float(high) < 0
    assert p == f"{2 / 301:.4f}"
    assert "300 resamples of 12 speakers, then their utterances" in printed
    assert "optimizer.lr: 0.1 -> 0.2" in printed
    assert "workers" not in printed
    assert page.count("B is better</span>") == 2
    assert "optimizer.lr: 0.1 -&gt; 0.2" in page
    assert printed == compare(a, b)[0], "seeded"


def test_changed_utterances_are_shown_side_by_side_the_largest_change_first(compare, tmp_path) -> None:
    texts = {"w": ("see the boat", ""), "x": ("see the boat", "see the boat"), "y": ("", "see the boat"),
             "z": ("see the goat", "see the boat")}  # fmt: skip
    for n, name in enumerate("ab"):
        write_run(tmp_path / name, [score(id, "see the boat", heard[n]) for id, heard in texts.items()])
    printed, page = compare("a", "b")
    assert re.findall(r"  (\w): B is (.*)", printed) == [
        ("y", "better by 3 word errors"), ("z", "better by 1 word error"), ("w", "worse by 3 word errors")]  # fmt: skip
    assert "makes fewer errors in 2 utterances, more in 1 and as many in 1" in printed
    assert "4 utterances alone, as their speakers are unknown" in printed
    assert "Beware: the speakers are unknown" in page
    assert re.findall(r"<code>(\w)</code>", page) == ["y", "z", "w"]
    assert "<code>" not in compare("a", "b", "examples=0")[1].split("<h2>Command")[0]


def test_few_speakers_are_warned_of(compare, tmp_path) -> None:
    paths = [write_run(tmp_path / f"{n}", transcripts(0.7, n, speakers=3)) for n in range(2)]
    assert "Beware: 3 speakers: with fewer than 10 the intervals are unreliable." in compare(*paths)[0]


def test_each_of_several_runs_is_compared_with_the_first_and_seeds_are_one_system(compare, tmp_path) -> None:
    a = [write_run(tmp_path / f"a{n}", transcripts(0.7, n), SETTINGS | {"seed": n}) for n in range(3)]
    b = [write_run(tmp_path / f"b{n}", transcripts(0.8, 9 + n), SETTINGS | {"epochs": 9, "seed": n}) for n in range(2)]
    printed, _ = compare(*a, *b, "output_dir=outputs/comparisons/x")
    assert re.findall(r"test-clean: (. against .)", printed) == [f"{letter} against A" for letter in "BCDE"]
    assert "seed: 0 -> 1" in printed
    printed, page = compare(a[0], b[0], *a[1:], b[1], "seeds=true", "output_dir=outputs/comparisons/x")
    assert re.findall(r"test-clean: (. against .)", printed) == ["B against A"]
    assert "3 seeds of A and 2 seeds of B and 12 speakers, then their utterances" in printed
    assert "     epochs: absent -> 9\n" in printed
    assert "seed:" not in printed
    assert f"<dd>{', '.join(a)}</dd>" in page
    assert "seeds=true" in page.split("<h2>Command</h2>")[1]


def test_runs_that_cannot_be_compared_are_refused(refused, tmp_path) -> None:
    """Each by a paragraph that names what is wrong, and the way out."""
    a = write_run(tmp_path / "a", transcripts(0.7), SETTINGS)
    seed = write_run(tmp_path / "seed", transcripts(0.7), SETTINGS | {"seed": 2})
    fewer = write_run(tmp_path / "fewer", transcripts(0.7)[:-1])
    changed = [*transcripts(0.7)[1:], score("id-00", "another boat", "")]
    other = write_run(tmp_path / "other", changed)
    more = write_run(tmp_path / "more", transcripts(0.7))
    write_run(tmp_path / "more", transcripts(0.7), part="test-other")
    empty = write_run(tmp_path / "empty", [])
    old = write_run(tmp_path / "old", transcripts(0.7))
    (tmp_path / "old/errors/test-clean/utterances.jsonl").unlink()
    write_utterances(transcripts(0.7), tmp_path / "running/errors/test-clean")
    damaged = write_run(tmp_path / "damaged", transcripts(0.7))
    (tmp_path / "damaged/config.json").write_text('["seed"]')
    assert "no runs are named" in refused()
    assert "at least two" in refused(a)
    assert "each once" in refused(a, f"{a}/../a")
    assert "'id-59' is in " in refused(a, fewer)
    assert re.search(r"'id-00' is '.*' in the first and 'another boat' in the second", refused(a, other))
    assert "parts=[PART]" in refused(a, more)
    assert f"parts: {a} was not scored on test-other" in refused(more, a, "parts=[test-other]")
    assert "at least one part" in refused(a, more, "parts=[]")
    assert "holds no utterance" in refused(a, empty)
    assert f"python -m asr.evaluate checkpoint={old}/best.pt" in refused(a, old)
    assert "has not finished" in refused(a, str(tmp_path / "running"))
    assert "config.json is not a config" in refused(a, damaged)
    assert f"did you mean {fewer}?" in refused(a, f"{fewer}r")
    assert "is not there" in refused(a, "o'no, [this] {is}\\")
    assert "are one system" in refused(a, seed, "seeds=true")
    same = write_run(tmp_path / "same", transcripts(0.7), SETTINGS)
    assert "the same seed" in refused(a, same, more, "seeds=true", "parts=[test-clean]")
    assert "seeds=1" in refused(a, seed, "seeds=1")


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.add(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data


NASTY = "<script>alert(1)</script> & \"><img src=x onerror='alert(1)'> {{ 7 * 7 }} \x1b[2J"


def test_names_and_texts_can_inject_nothing(compare, tmp_path) -> None:
    folder = "it's <b>[bold]mine[~]"
    runs = [
        write_run(tmp_path / f"{folder}{n}", [score(NASTY, f"{NASTY} z", f"{NASTY}{n * ' z'}", speaker=NASTY)],
                  {"note": f"{NASTY}{n}"}, part="<i>part")
        for n in range(2)
    ]  # fmt: skip
    printed, page = compare(*runs)
    parsed = Page(page)
    assert parsed.elements.isdisjoint({"script", "img", "b", "i"})
    assert {"onerror", "src", "href"}.isdisjoint(parsed.attributes), "nothing runs, and nothing is fetched"
    assert parsed.text.count(NASTY) == 6, "the id, three texts, and a setting's two values"
    assert "\x1b" not in printed
    assert f"{folder}0" in printed


def test_an_evaluation_has_its_checkpoints_settings_and_its_own_decoder(compare, tmp_path) -> None:
    """A file utterances.jsonl stands for its run."""
    evaluated = {
        "trained": SETTINGS,
        "decode": {"_target_": "beam"},
        "checkpoint": "a/best.pt",
        "parts": ["test-clean"],
    }
    a = write_run(tmp_path / "a", transcripts(0.7), SETTINGS)
    write_run(tmp_path / "b", transcripts(0.7), evaluated)
    printed, _ = compare(a, str(tmp_path / "b/errors/test-clean/utterances.jsonl"))
    assert row(printed, "CER")[2:] == ["+0.00", "+0.00", "to", "+0.00", "1.0000"]
    assert re.findall(r"^     (\w.*)$", printed, re.MULTILINE) == [
        "checkpoint: absent -> a/best.pt", "decode._target_: greedy -> beam"]  # fmt: skip
