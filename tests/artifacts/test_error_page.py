"""The page of a part's errors: what it counts, and what a browser makes of it."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections import Counter
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from conftest import RATE, compose_small

from asr.artifacts import error_page
from asr.artifacts.error_page import (
    TrainingWords,
    confusions,
    missed_by_frequency,
    rates_by_length,
    rates_by_speaker,
    write_error_page,
)
from asr.config.build import build_recognizer
from asr.corpora.manifest import Utterance, Utterances
from asr.metrics import ErrorRates, align, score

HOSTILE = "</script><img src=x onerror=document.title=1>"
SCORED = [
    score("a", "abba dad cab", "abba bad cab", speaker="7", seconds=0.6, confidences=(0.5, 1.0, 0.9)),
    score("b", "dad dad", "bad", speaker="7", seconds=2.5),
    score("c", "", "face", speaker="8", seconds=40.0),
    score("d", "bead", "bead add", speaker=None, seconds=2.0),
]
PAIRS = [align(one) for one in SCORED]


def test_the_alignment_has_the_errors_that_are_counted():
    assert PAIRS[0] == [("abba", "abba"), ("dad", "bad"), ("cab", "cab")]
    assert PAIRS[2:] == [[("", "face")], [("bead", "bead"), ("", "add")]]
    for one, pairs in zip(SCORED, PAIRS, strict=True):
        assert sum(bool(a and b and a != b) for a, b in pairs) == one.words.substitutions
        assert sum(not b for _, b in pairs) == one.words.deletions
        assert sum(not a for a, _ in pairs) == one.words.insertions
        assert sum(bool(a) for a, _ in pairs) == one.words.length


def test_errors_are_told_apart_by_speaker_length_and_frequency():
    speakers = rates_by_speaker(SCORED)
    assert list(speakers) == ["8", "unknown speaker", "7"]
    assert speakers["7"] == ErrorRates.of(SCORED[:2])
    lengths = rates_by_length(SCORED)
    assert {name: rates.utterances for name, rates in lengths.items()} == {
        "0 to 1 s": 1,
        "2 to 3 s": 2,
        "30 s or more": 1,
    }
    found = missed_by_frequency(PAIRS, Counter({"abba": 1, "dad": 10, "cab": 11, "bead": 101}))
    assert {name: tuple(words) for name, words in found.items()} == {
        "never": (0, 0),
        "once": (1, 0),
        "2 to 10 times": (3, 3),
        "11 to 100 times": (1, 0),
        "more than 100 times": (1, 0),
    }


def test_confusions_are_the_commonest_first():
    assert confusions(PAIRS) == {
        "substitutions": [("dad -> bad", 2)],
        "deletions": [("dad", 1)],
        "insertions": [("add", 1), ("face", 1)],
    }


# Finds out what a page shows, in the browser, and sends it to the window around it.
PROBE = """<script>
const texts = selector => [...document.querySelectorAll(selector)].map(one => one.textContent);
const search = text => { form.elements.text.value = text; form.oninput(); return shown.textContent; };
const duration = audio => new Promise(done => {
  audio.onloadedmetadata = () => done(audio.duration);
  audio.onerror = () => done("cannot be played");
  audio.preload = "metadata";
  audio.load();
});
addEventListener("load", async () => {
  const found = {
    name: window.name, title: document.title, facts: texts(".facts b"), shown: shown.textContent,
    ids: texts("article b"),
    wider: document.documentElement.scrollWidth - innerWidth,
    rows: ["speakers", "lengths", "frequencies"].map(id => texts(`#${id} tbody tr`).length),
    pictures: [...document.images].map(one => [one.naturalHeight, one.alt.slice(0, 11)]),
    words: texts(".spectrogram button"),
    durations: await Promise.all([...document.querySelectorAll("audio")].slice(0, 4).map(duration)),
    alignment: [...document.querySelectorAll("article:first-of-type .alignment span")].map(
      one => [one.className, one.textContent, one.title]),
    foreign: document.querySelectorAll("img:not([alt]), svg, iframe, b b, script:not([id])").length,
  };
  next.onclick();
  found.second = shown.textContent;
  found.searched = ['"dad -> bad"', '"ad -> bad"', '"+bad"', "<IMG src=x", "right"].map(search);
  document.querySelector("#confusions button").click();
  found.clicked = [form.elements.text.value, shown.textContent];
  form.elements.text.value = "";
  form.elements.order.value = "id"; form.elements.direction.value = "1"; form.elements.lowest.value = "60";
  form.oninput();
  found.sorted = texts("article b");
  form.elements.lowest.value = ""; form.elements.speaker.value = "is <b>"; form.oninput();
  found.speaker = texts("article b");
  parent.postMessage(found, "*");
});
</script></body>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed to open the page in")
    return found


def console_message(browser, folder, pattern):
    """Opens frames.html, and returns the JSON in the first line of its console that matches, once it is there."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--remote-debugging-port=0", "--enable-logging=stderr", (folder / "frames.html").as_uri()]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(40, process.kill)
        limit.start()
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if message := re.search(pattern, line):
                    return json.loads(unquote(message[1]))
            pytest.fail("".join(lines))
        finally:
            limit.cancel()
            process.kill()


@pytest.fixture(scope="module")
def page(corpus, tmp_path_factory):
    """A page of 30 utterances, of which the worst three are embedded, with names that try to be HTML."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(1)
    soundfile.write(folder / "a #1%.flac", rng.normal(0, 0.1, RATE).astype(np.float32), RATE)
    scored = [
        score(HOSTILE, f"{HOSTILE} dad", "bad", speaker="<b>", seconds=1.0, confidences=(0.5,)),
        score("=cmd", "dad dad", "bad", speaker="=1", seconds=1.0, confidences=(0.5,)),
        score("z", "cab", "bad add", speaker="7", seconds=1.0, confidences=(0.5, 0.7)),
        *(score(f"right-{n:02}", "cab", "cab", speaker=None, seconds=1.0) for n in range(27)),
    ]
    rows = [Utterance(one.id, one.reference, "a #1%.flac", RATE, RATE, one.speaker) for one in scored]
    recognizer = build_recognizer(compose_small(corpus, folder), 1)
    recognizer.model.eval()
    words = TrainingWords(Counter({"cab": 2}), "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error_page, "EMBEDDED", 3)
        path = write_error_page("test", scored, Utterances.of(rows, str(folder)), recognizer, words, folder / "test")
    return scored, path


def test_a_browser_shows_all_and_runs_nothing_that_a_corpus_holds(page, browser, tmp_path):
    """Wide, narrow, and as a file; the first two in a sandbox, as in MLflow's view of an artifact."""
    scored, path = page
    copy = tmp_path / "copy.html"
    content = path.read_text()
    copy.write_text(content.replace("</body>", PROBE))
    source = html.escape(copy.read_text())
    (tmp_path / "frames.html").write_text(
        "<!DOCTYPE html><script>const found = []; addEventListener('message', event => { found.push(event.data); "
        "if (found.length == 3) console.log(`FOUND ${encodeURIComponent(JSON.stringify(found))} `); })</script>"
        f'<iframe name="wide" width=1400 height=900 sandbox="allow-scripts" srcdoc="{source}"></iframe>'
        f'<iframe name="narrow" width=400 height=900 sandbox="allow-scripts" srcdoc="{source}"></iframe>'
        f'<iframe name="file" width=1400 height=900 src="{copy.as_uri()}"></iframe>'
    )
    found = console_message(browser, tmp_path, "FOUND ([^ ]*) ")
    assert {one["name"] for one in found} == {"wide", "narrow", "file"}
    rates = ErrorRates.of(scored)
    words = rates.words
    for one in found:
        assert one["title"] == "Errors on test"
        assert one["facts"] == [
            f"{100 * words.rate:.2f} %", f"{100 * rates.characters.rate:.2f} %",
            *map(str, (words.substitutions, words.deletions, words.insertions, words.length, 30)),
        ]  # fmt: skip
        assert one["wider"] <= 0, f"{one['name']} scrolls sideways"
        assert one["rows"] == [4, 1, 5]
        assert (one["shown"], one["second"]) == ("1 to 25 of 30", "26 to 30 of 30")
        assert one["ids"][:4] == ["z", HOSTILE, "=cmd", "right-00"]
        assert one["foreign"] == 2, "the page's own script and the probe"
        assert one["pictures"] == [[40, "spectrogram"]] * 3
        assert one["words"] == ["bad", "add", "bad", "bad"]
        assert one["durations"] == pytest.approx([1.0] * (4 if one["name"] == "file" else 3), abs=0.1)
        assert one["alignment"] == [
            ["inserted", "+bad", "confidence 50.0 %"],
            ["substituted", "cab → add", "confidence 70.0 %"],
        ]
        assert one["searched"] == [
            "1 to 1 of 1", "no utterance", "1 to 1 of 1", "1 to 1 of 1", "1 to 25 of 27",
        ]  # fmt: skip
        assert one["clicked"] == ['"</script><img -> bad"', "1 to 1 of 1"]
        assert one["sorted"] == sorted([HOSTILE, "=cmd", "z"])
        assert one["speaker"] == [HOSTILE]
