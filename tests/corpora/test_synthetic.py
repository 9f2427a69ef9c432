"""The spoken corpus: same seed, same bytes; LibriSpeech's layout; voices and sentences that no two sides share."""

import importlib.util
import random
import re
from pathlib import Path

import pytest
import soundfile

from asr.corpora.synthetic import corpus as synthetic
from asr.corpora.synthetic.corpus import PARTS, make_corpus
from asr.corpora.synthetic.espeak import speak
from asr.corpora.synthetic.sentences import past, progressive, sentence, third, transcript
from asr.errors import InputError

spoken = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng_loader speaks: pip install '.[synthetic]'"
)
HOURS = dict.fromkeys(PARTS, 0.01)
SPEAKERS = dict.fromkeys(PARTS, 3)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sentences_of(root: Path, part: str) -> list[str]:
    lines = [line for path in (root / part).rglob("*.trans.txt") for line in path.read_text().splitlines()]
    return [line.split(" ", 1)[1] for line in lines]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    make_corpus(root, HOURS, SPEAKERS, seed=7, jobs=1)
    return root


@spoken
def test_same_seed_same_bytes_for_any_processes_and_order(corpus: Path, tmp_path: Path) -> None:
    two = {"dev-other": 0.01, "train-other-500": 0.01}  # fewer parts: what was spoken before must not matter
    make_corpus(tmp_path, two, SPEAKERS, seed=7, jobs=2)
    again = {name: data for name, data in files_of(tmp_path).items() if name != "SPEAKERS.TXT"}
    assert sum(name.endswith(".flac") for name in again) > 20
    assert again == {name: data for name, data in files_of(corpus).items() if name.startswith(tuple(two))}


@spoken
def test_other_seed_other_bytes_and_more_hours_the_same_beginning(corpus: Path, tmp_path: Path) -> None:
    make_corpus(tmp_path / "seed", {"dev-clean": 0.002}, SPEAKERS, seed=8, jobs=1)
    make_corpus(tmp_path / "hours", {"dev-clean": 0.002}, SPEAKERS, seed=7, jobs=1)
    flacs = [path for path in files_of(tmp_path / "hours") if path.endswith(".flac")]
    assert flacs
    for path in flacs:
        assert (tmp_path / "hours" / path).read_bytes() == (corpus / path).read_bytes()
    assert files_of(tmp_path / "seed") != files_of(tmp_path / "hours")


@spoken
def test_layout_transcripts_and_audio_agree(corpus: Path) -> None:
    for part in PARTS:
        seconds = 0.0
        for transcripts in (corpus / part).rglob("*.trans.txt"):
            speaker, chapter = transcripts.parts[-3:-1]
            assert transcripts.name == f"{speaker}-{chapter}.trans.txt"
            lines = transcripts.read_text().splitlines()
            flacs = sorted(transcripts.parent.glob("*.flac"))
            assert [line.split(" ", 1)[0] for line in lines] == [path.stem for path in flacs]
            for line, path in zip(lines, flacs, strict=True):
                assert path.name == f"{speaker}-{chapter}-{flacs.index(path):04d}.flac"
                info = soundfile.info(path)
                assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16")
                assert 4 < len(line.split(" ", 1)[1]) / info.duration < 30  # letters a second
                audio, _ = soundfile.read(path)
                assert 0.2 < abs(audio).max() < 0.95
                seconds += info.duration
        assert seconds == pytest.approx(3600 * HOURS[part], rel=0.25)
        assert not (corpus / f"{part}.partial").exists()


@spoken
def test_speakers_txt_names_every_speaker_once(corpus: Path) -> None:
    lines = [line for line in (corpus / "SPEAKERS.TXT").read_text().splitlines() if not line.startswith(";")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert {(row[0], row[2]) for row in rows} == {
        (folder.name, part) for part in PARTS for folder in (corpus / part).iterdir() if folder.is_dir()
    }
    assert {row[1] for row in rows} == {"F", "M"}
    assert len({row[4] for row in rows}) == len(rows) == len({row[0] for row in rows})


def test_voices_of_the_three_sides_differ_and_speakers_of_all_parts() -> None:
    sides = [{*voices.women, *voices.men, *voices.odd} for voices in synthetic.VOICES.values()]
    assert len(set.union(*sides)) == sum(len(side) for side in sides)
    people = [(each.voice, each.pitch, each.pitch_range, each.rate_wpm) for part in PARTS
              for each in synthetic.choose_speakers(part, 100, seed=0)]  # fmt: skip
    assert len(set(people)) == 100 * len(PARTS)


@spoken
def test_every_voice_and_accent_is_shipped() -> None:
    loader = pytest.importorskip("espeakng_loader")
    shipped = {path.name for path in (Path(loader.get_data_path()) / "voices" / "!v").iterdir()}
    for voices in synthetic.VOICES.values():
        assert {*voices.women, *voices.men, *voices.odd} <= shipped
    assert shipped >= synthetic.ODD_WOMEN
    spoken_lengths = {
        accent: len(speak("the water was warm.", f"{accent}+m1", 50, 50, 160, 16000).samples)
        for accent in {*synthetic.CLEAN_ACCENTS, *synthetic.OTHER_ACCENTS}
    }
    assert all(8000 < length < 40000 for length in spoken_lengths.values()), spoken_lengths
    with pytest.raises(RuntimeError, match="en-nowhere"):
        speak("hello", "en-nowhere+m1", 50, 50, 160, 16000)


@spoken
def test_no_sentence_of_dev_or_test_is_anywhere_else(corpus: Path) -> None:
    said = {part: sentences_of(corpus, part) for part in PARTS}
    held_out = [text for part in PARTS if not part.startswith("train") for text in said[part]]
    assert len(held_out) == len(set(held_out)) > 20
    assert not set(held_out) & {text for part in PARTS if part.startswith("train") for text in said[part]}


def test_no_sentence_of_dev_or_test_is_anywhere_else_in_hours_of_plans() -> None:
    said = {
        part: [
            transcript(text)
            for chapter in synthetic.plan_part(Path(), part, 0.3, 5, seed=1)
            for text in chapter.sentences
        ]
        for part in PARTS
    }
    held_out = [text for part in PARTS[3:] for text in said[part]]
    assert len(held_out) == len(set(held_out)) > 1000
    assert not set(held_out) & {text for part in PARTS[:3] for text in said[part]}


@spoken
def test_a_second_call_does_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # nor does it need eSpeak
    make_corpus(corpus, HOURS, SPEAKERS, seed=7, jobs=1, progress=lambda *_: pytest.fail("it spoke again"))
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


@spoken
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "seed=7, not 8"),
        ({"hours": {"dev-clean": 0.02}}, "hours=0.01, not 0.02"),
        ({"speakers": SPEAKERS | {"dev-clean": 4}}, "speakers=3, not 4"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(corpus: Path, change: dict, message: str) -> None:
    before = files_of(corpus)
    with pytest.raises(InputError, match=message) as caught:
        make_corpus(corpus, **({"hours": HOURS, "speakers": SPEAKERS, "seed": 7, "jobs": 1} | change))
    assert "choose another root, or delete" in str(caught.value)
    assert files_of(corpus) == before


@spoken
def test_an_interrupted_part_is_made_anew(corpus: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        assert (what, total) == ("speaking", 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_corpus(tmp_path, {"test-clean": 0.01}, SPEAKERS, seed=7, jobs=1, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["test-clean.partial"]
    make_corpus(tmp_path, {"test-clean": 0.01}, SPEAKERS, seed=7, jobs=1)
    assert files_of(tmp_path / "test-clean") == files_of(corpus / "test-clean")
    assert not (tmp_path / "test-clean.partial").exists()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dev-clean").mkdir()
    with pytest.raises(InputError, match="not made by this generator"):
        make_corpus(tmp_path, {"dev-clean": 0.01}, SPEAKERS, seed=0, jobs=1)
    (tmp_path / "SPEAKERS.TXT").write_text("; Some pertinent information about the speakers\n")
    with pytest.raises(InputError, match=r"SPEAKERS\.TXT"):
        make_corpus(tmp_path, {"dev-other": 0.01}, SPEAKERS, seed=0, jobs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SPEAKERS.TXT", "dev-clean"]


@pytest.mark.parametrize(
    ("hours", "speakers", "jobs", "message"),
    [
        ({"dev-cleen": 1.0}, 3, 1, "dev-cleen.*dev-clean"),
        ({"dev-clean": 0.0}, 3, 1, "hours=0.0"),
        ({"dev-clean": float("nan")}, 3, 1, "hours=nan"),
        ({"dev-clean": 0.01}, 0, 1, "speakers=0"),
        ({"dev-clean": 0.01}, 1000, 1, "speakers=1000"),
        ({"dev-clean": 0.01}, 3, 0, "jobs=0"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, hours: dict[str, float], speakers: int, jobs: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_corpus(tmp_path, hours, dict.fromkeys(PARTS, speakers), seed=0, jobs=jobs)
    assert not list(tmp_path.iterdir())


def test_without_espeak_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install '\.\[synthetic\]'"):
        make_corpus(tmp_path, {"dev-clean": 0.01}, SPEAKERS, seed=0, jobs=1)


def test_sentences_are_3_to_12_words_of_a_vocabulary_of_600_and_seldom_repeat() -> None:
    texts = [sentence(random.Random(seed)) for seed in range(8000)]
    assert all(text.endswith((".", "?")) and text[0].isupper() for text in texts)
    said = [transcript(text).split() for text in texts]
    assert {len(words) for words in said} == set(range(3, 13))
    vocabulary = {word for words in said for word in words}
    assert 600 <= len(vocabulary) <= 1000
    assert all(word.isascii() and word.isalpha() and word.isupper() for word in vocabulary)
    assert len({tuple(words) for words in said}) > 0.97 * len(said)
    assert not vocabulary & {"TWO", "TOO", "BY", "THEIR", "NO", "KNOW", "HOUR"}  # each sounds like a word that is used


def test_sentences_agree() -> None:
    text = "\n".join(f" {sentence(random.Random(seed)).lower()[:-1]} " for seed in range(8000))
    singular = " (he|she|anna|tom|this|that \\w+) "
    assert not re.search(f"\n{singular}(are|were|do|have) ", text)
    for wrong in (" i is ", " i are ", " we was ", " they is ", " these \\w+[^s] is ", " a [aeiou]", " an [^aeiouh]"):
        assert not re.search(wrong, text), wrong


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("carry", "carries carried carrying"),
        ("stop", "stops stopped stopping"),
        ("buy", "buys bought buying"),
        ("stay", "stays stayed staying"),
        ("chase", "chases chased chasing"),
        ("watch", "watches watched watching"),
        ("see", "sees saw seeing"),
        ("go", "goes went going"),
        ("visit", "visits visited visiting"),
        ("open", "opens opened opening"),
        ("forget", "forgets forgot forgetting"),
    ],
)
def test_verb_forms(verb: str, forms: str) -> None:
    assert f"{third(verb)} {past(verb)} {progressive(verb)}" == forms
