"""Whole reports from MLflow stores with made-up runs, read back as files and in a browser."""

import io
import json
import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import log_to, mlflow_store
from hydra import compose, initialize_config_dir
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from asr import cli, report
from asr.artifacts.error_table import error_rows, write_utterances
from asr.artifacts.plots import render
from asr.errors import InputError
from asr.metrics import ErrorRates, score
from asr.reporting.claims import Variant, read_claims
from asr.reporting.groups import Group, differing_settings, group_key, group_runs
from asr.reporting.intervals import Resampling
from asr.reporting.media import write_media
from asr.reporting.page import write_report
from asr.reporting.published import published
from asr.reporting.runs import HISTORY, LeftOut, RunStore, StoredRun
from asr.reporting.verdicts import Verdict, judge
from asr.settings import flatten
from asr.tracking.run import Description
from asr.train import GROUPS

PARTS = ("test-clean", "test-other")
COMMON = ["scale=mini", "data.root=outputs/corpora/synthetic"]
RESAMPLING = Resampling(200, 1)
CLAIMS = read_claims(OmegaConf.load(cli.CONF / "claims" / "writeup.yaml"))
EXP3_VARIANTS = CLAIMS.comparisons["exp3-variants"].experiments


def transcripts(part: str, error_rate: float, seed: int = 1) -> list:
    """Utterances in which each letter is lost with the probability error_rate; the references are the same in all."""
    spoken, lost = random.Random(part), random.Random(seed)
    texts = [" ".join(spoken.choice(["see", "the", "old", "boat"]) for _ in range(5)) for _ in range(40)]
    return [
        score(f"{part}-{n:02}", text, "".join(letter for letter in text if lost.random() >= error_rate).strip())
        for n, text in enumerate(texts)
    ]


def log_run(
    uri: str, experiment: str, rates: tuple[float, float], augment: str | None = None, without: str = "",
    overrides: list[str] = COMMON, stop_after: int | None = None,
) -> str:  # fmt: skip
    """Logs what a training run leaves, with the error rates of the two test parts; without: an artifact's name."""
    chosen = augment or CLAIMS.known[experiment].augment
    choices = {"model": "ds2_4gru", "augment": chosen, "experiment": experiment, "scale": "mini", "sweep": ""}
    seed = 1 + ("seed=2" in overrides)
    folder = Path(uri.removeprefix("sqlite:///")).parent
    config = {"data": {"root": "outputs/corpora/synthetic"}, "seed": seed}
    own = [f"experiment={experiment}", *([f"augment={augment}"] if augment else []), *overrides]
    name = "+".join(own)
    tracked = log_to(uri, Description(name, choices, config))
    history = []
    for epoch in range(1, (stop_after or 4) + 1):
        record = {
            "epoch": epoch, "train_utterances": 160, "train_audio_seconds": 600.0, "train_wall_seconds": 20.0,
            "dev_wall_seconds": 4.0, "dev_loss": 3 / epoch, "dev_mean_cer": 1 / epoch, "dev_mean_wer": 1.1 / epoch,
        }  # fmt: skip
        history.append(record)
        tracked.log_metrics({"dev/loss": record["dev_loss"], "step/learning_rate": 1e-3 / epoch}, epoch * 20)
    if stop_after:
        tracked.finish("KILLED")
        return tracked.run_id
    scored = {part: transcripts(part, rate) for part, rate in zip(PARTS, rates, strict=True)}
    plan = {
        "name": name, "command": f"python -m asr.train {' '.join(own)}", "overrides": own, "device": "cpu, 2 threads",
        "parameters": 1234567, "total_steps": 80,
        "parts": [
            {"role": "train", "source": "train-clean-100", "utterances": 500, "hours": 0.5, "dropped": ""},
            *({"role": "test", "source": part, "utterances": 40, "hours": 0.05, "dropped": ""} for part in PARTS),
        ],
    }  # fmt: skip
    texts = {
        "plan.json": json.dumps(plan),
        "history.jsonl": "".join(json.dumps(record) + "\n" for record in history),
        "results.json": json.dumps({part: ErrorRates.of(of_part).to_json() for part, of_part in scored.items()}),
    }
    with tracked:
        for file, text in texts.items():
            if file != without:
                tracked.log_text(text, file)
        for part, of_part in scored.items():
            tracked.log_table(error_rows(of_part), f"errors/{part}")
            if experiment == "exp3":  # runs of older versions have no such file
                with_speakers = [one._replace(speaker=one.id[-1]) for one in of_part]
                written = write_utterances(with_speakers, folder / part)
                tracked.log_text(written.read_text(), f"errors/{part}/utterances.jsonl")
    return tracked.run_id


def log_augmentation(uri: str, run_id: str, folder: Path) -> None:
    wav, figure = io.BytesIO(), Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    soundfile.write(wav, np.sin(np.arange(8000) / 5), 16000, format="WAV")
    with log_to(uri, Description(""), run_id) as tracked:
        for name in ("all.png", "before.wav", "all.wav", "1_Shift.png", "1_Shift.wav", "4_FrequencyMasking.png"):
            path = folder / name
            path.write_bytes(wav.getvalue() if name.endswith(".wav") else render(figure, "png"))
            tracked.log_file(path, "augmentation")


def compose_report(uri: str, folder: Path, *overrides: str):
    common = [f"tracking.uri={uri}", f"output_dir={folder}", "bootstrap_samples=200"]
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return compose("report", overrides=[*common, *overrides])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[str, Path]:
    """A store in which exp2_clean is missing, exp3's variants differ, a run stopped and one is damaged; its report."""
    folder = tmp_path_factory.mktemp("report")
    uri = mlflow_store(folder)
    log_run(uri, "exp1", (0.9, 0.9))
    log_run(uri, "exp1", (0.4, 0.5))
    log_run(uri, "exp2_other", (0.1, 0.3))
    log_augmentation(uri, log_run(uri, "exp3", (0.6, 0.7)), folder)
    log_run(uri, "exp3", (0.3, 0.7), "wave_spec_no_noise")
    log_run(uri, "exp3_adam", (0.1, 0.2))
    log_run(uri, "exp2_clean", (0, 0), stop_after=3)
    log_run(uri, "exp3_adam_one_cycle", (0.2, 0.3), without="plan.json")
    log_run(uri, "exp1", (0.5, 0.5), overrides=["seed=2"])
    with log_to(uri, Description("<b>the sweep</b>", tags={"kind": "sweep"})):
        pass
    report.run(compose_report(uri, folder / "out"))
    return uri, folder / "out"


class Page(HTMLParser):
    """Counts elements, gathers the text and what would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.external: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        links = [value for key, value in attributes if key in ("src", "href")]
        self.external += [link for link in links if not link.startswith(("data:", "#"))]


def verdict(markdown: str, claim: str) -> str:
    """What stands beside a claim's heading, in the first and larger group."""
    return re.search(rf"^#### {re.escape(claim)}: (.*)$", markdown, re.MULTILINE)[1]


def test_the_page_is_one_file_and_markdown_says_the_same(made) -> None:
    page, markdown = (made[1] / "index.html").read_text(), (made[1] / "report.md").read_text()
    parsed = Page(page)
    assert parsed.external == []
    assert parsed.counts["audio"] == 3
    linked = re.findall(r"\]\(((?:pictures|sounds)/[^)]+)\)", markdown)
    assert len(linked) == parsed.counts["img"] + parsed.counts["audio"]
    assert all((made[1] / file).stat().st_size for file in linked)
    drawn = [file.name for file in (made[1] / "pictures").glob("*.svg")]
    assert sorted(drawn) == ["curves-1.svg", "curves-2.svg", "exp3-variants-1.svg", "learning-rates-1.svg",
                             "learning-rates-2.svg"]  # fmt: skip
    assert markdown.count("\n|---") == parsed.counts["table"]
    assert page.count('<div class="scroll"><table>') == parsed.counts["table"], "wide tables scroll on a narrow screen"
    assert re.search(r"\.scroll \{[^}]*max-width: 100%; overflow-x: auto;", page)
    assert re.search(r"\nfigure img \{[^}]*max-width: 100%", page)
    assert "none of our figures may be compared" in page
    assert "none of our figures may be compared" in markdown
    assert "spoken by eSpeak NG" in markdown
    assert str(made[1].parent) not in page


def test_results_missing_runs_and_repeats(made) -> None:
    markdown = (made[1] / "report.md").read_text()
    table = markdown.split("### test-clean: mini scale, corpus 'synthetic'\n")[1].split("###")[0]
    header = "writeup (full scale, LibriSpeech; mean over utterances): CER"
    columns = [cell.strip() for cell in table.strip().splitlines()[0].split("|")]
    row = next(line for line in table.splitlines() if line.startswith("| exp1 |")).split("|")
    assert row[columns.index(header)].strip() == "39 %"
    ours = ErrorRates.of(transcripts("test-clean", 0.4))
    assert f"{100 * ours.mean_cer:.1f} %" in row[columns.index("ours, mini scale: mean over utterances: CER")]
    assert f"{100 * ours.words.rate:.1f} %" in row[columns.index("ours, mini scale: of the corpus: WER")]
    command = "`python -m asr.train experiment=exp2_clean data.root=outputs/corpora/synthetic scale=mini`"
    assert f"| exp2_clean | {command} (not run) |" in table
    assert "exp1 (2)" in markdown
    assert re.search(r"exp2_clean\S* \| stopped \| 3 \|", markdown)
    assert "plan.json is missing" in markdown
    assert "the sweep" not in markdown


def test_verdicts(made) -> None:
    markdown = (made[1] / "report.md").read_text()
    assert verdict(markdown, "exp2 beats exp1") == "test-clean: supported"
    assert verdict(markdown, "exp3 is the worst") == "test-clean: supported"
    assert "exp1: supported" in verdict(markdown, "other is harder than clean")
    assert "exp2_clean: not testable yet" in verdict(markdown, "other is harder than clean")
    assert verdict(markdown, "H1a: noise made exp3 fail") == "test-clean: did not fail, test-other: did not fail"
    assert (
        verdict(markdown, "H1b: noise costs accuracy") == "test-clean: not testable yet, test-other: not testable yet"
    )
    assert "| TimeInversion hurts | `python -m asr.train sweep=failures " in markdown
    assert "python -m asr.train sweep=hypotheses data.root=outputs/corpora/synthetic scale=mini" in markdown


def test_reports_are_logged_and_never_read(made) -> None:
    store = RunStore(made[0], "asr")
    runs, left_out = store.read()
    assert len(runs) == 7
    assert {run.status for run in left_out} == {"KILLED", "FINISHED"}
    speakers = {run.variant.experiment: run.counts("test-clean", "wer").speakers for run in runs}
    assert speakers["exp1"] is None
    assert sorted(set(speakers["exp3"])) == sorted("0123456789")
    markdown = (made[1] / "report.md").read_text()
    assert "Intervals resample 40 utterances alone, as their speakers are unknown" in markdown
    assert "Intervals resample 10 speakers, then their utterances.\n" in markdown
    (logged,) = store.client.search_runs([store.experiment_id], "tags.kind = 'report'")
    files = {file.path for file in store.client.list_artifacts(logged.info.run_id)}
    assert {"index.html", "report.md", "pictures", "sounds"} <= files


@pytest.mark.parametrize(
    ("path", "content", "affected"),
    [
        ("plan.json", b"[1]", 7),
        ("history.jsonl", b'{"epoch": 1', 7),
        ("start/config.json", b"\xff", 7),
        ("errors/test-clean.json", b'{"columns": ["id"], "data": [["a"]]}', 5),
        ("errors/test-clean/utterances.jsonl", b'{"id": "a"}', 2),
    ],
)
def test_a_run_with_a_damaged_file_is_left_out_and_the_file_named(
    made, path: str, content: bytes, affected: int
) -> None:
    class Damaged(RunStore):
        def read_file(self, run_id: str, wanted: str) -> bytes:
            read = super().read_file(run_id, wanted)
            return content if wanted == path else read

    runs, left_out = Damaged(made[0], "asr").read()
    assert len(runs) == 7 - affected
    assert sum(run.reason.startswith(f"{path} is not what a training run writes: ") for run in left_out) == affected


def stored(experiment: str, augment: str, rates: tuple[float, float], overrides: Sequence[str] = COMMON) -> StoredRun:
    """A finished run as it is read back."""
    scored = {part: transcripts(part, rate) for part, rate in zip(PARTS, rates, strict=True)}
    plan = {"name": "", "command": "", "overrides": [f"experiment={experiment}", *overrides], "device": "cpu",
            "parameters": 1, "total_steps": 80, "parts": []}  # fmt: skip
    choices = {"experiment": experiment, "augment": augment}
    return StoredRun("id", choices, "none", False, plan, pd.DataFrame(columns=HISTORY), scored, {}, pd.DataFrame())


def group_of(runs: Sequence[StoredRun]) -> Group:
    """The group that all of these runs form."""
    (group,), _ = group_runs(runs, CLAIMS.known)
    return group


def verdicts(group: Group) -> dict[str, list[str]]:
    """The verdicts on each of the writeup's claims."""
    judged = judge(CLAIMS, group, RESAMPLING)
    return {name: [answer.verdict.value for answer in of_claim] for name, of_claim in judged.items()}


def configured(run: StoredRun) -> StoredRun:
    """The run with the settings of a training of its experiment and augmentation."""
    overrides = [
        f"experiment={run.variant.experiment}",
        f"augment={run.variant.augment}",
        "output_dir=x",
        "init_from=x",
    ]
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    choices = {group: str(config.hydra.runtime.choices[group] or "") for group in GROUPS}
    settings = OmegaConf.to_container(OmegaConf.masked_copy(config, set(config) - {"hydra"}), resolve=True)
    return replace(run, params={key: str(value) for key, value in (flatten(settings) | choices).items()})


def written(folder: Path, runs: list[StoredRun], left_out: Sequence[LeftOut] = (), **more: object) -> tuple[str, str]:
    """index.html and report.md of these runs."""
    content = report.gather(CLAIMS, runs, list(left_out), RESAMPLING, "python -m asr.report")
    write_report(content | {"curves": {}, "rates": {}, "augmentation": {}} | more, folder)
    return (folder / "index.html").read_text(), (folder / "report.md").read_text()


def rows_of(markdown: str, claim: str) -> list[list[str]]:
    """The table below a claim's heading, without its head."""
    table = markdown.split(f"#### {claim}")[1].split("#### ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_a_whole_factorial_is_judged_and_failure_is_told(tmp_path: Path) -> None:
    """On clean only Adam learns, noise or not; on other less is wrong with noise than without."""
    clean = {"exp3": 0.99, "exp3_adam": 0.2, "exp3_sgd_one_cycle": 0.97, "exp3_adam_one_cycle": 0.2}
    other = {"wave_spec": 0.3, "wave_spec_no_noise": 0.5}
    runs = [stored(name, augment, (clean[name], other[augment])) for name in clean for augment in other]
    group = group_of(runs)
    found = verdicts(group)
    assert found["H1a: noise made exp3 fail"] == ["contradicted", "did not fail"]
    assert found["H1b: noise costs accuracy"] == ["undecided", "contradicted"]
    assert found["H2a: SGD made exp3 fail"] == ["supported", "did not fail"]
    assert found["H2b: SGD costs accuracy"] == ["supported", "undecided"]
    assert found["H3a: its schedule made exp3 fail"] == ["contradicted", "did not fail"]
    assert found["H3b: exp3's schedule costs accuracy"] == ["undecided", "undecided"]
    assert found["exp3 is the worst"] == ["not testable yet"]
    _, text = written(tmp_path, runs)
    assert "Both failed: " in text
    assert "it fails as well without" in text
    assert "mean over 2 of 4 pairs" in text


def test_noise_made_nothing_fail_that_fails_as_well_without() -> None:
    """The CERs of docs/results.md: noise costs points where a model learns, but is not why exp3 fails."""
    rates = {"exp3": (0.941, 0.96), "exp3_adam": (0.592, 0.537), "exp3_sgd_one_cycle": (0.615, 0.578),
             "exp3_adam_one_cycle": (0.54, 0.473)}  # fmt: skip
    runs = [
        stored(name, augment, (rate, rate))
        for name, both in rates.items()
        for augment, rate in zip(("wave_spec", "wave_spec_no_noise"), both, strict=True)
    ]
    found = verdicts(group_of(runs))
    of_failure, of_cost = (
        {verdict for name, claim in CLAIMS.claims.items() if holds(claim) for verdict in found[name]}
        for holds in (
            lambda claim: "noise" in claim.text and "exp3 failed" in claim.text,
            lambda claim: "noise" in claim.text and "exp3 failed" not in claim.text,
        )
    )
    assert of_failure == {"contradicted"}
    assert of_cost == {"supported"}


@pytest.mark.parametrize(
    ("exp3", "without", "verdict"),
    [
        (0.97, 0.3, "supported"),
        (0.97, 0.99, "contradicted"),
        (0.97, 0.9, "undecided"),
        (0.9, 0.3, "undecided"),
        (0.9, 0.99, "undecided"),
        (0.5, 0.2, "did not fail"),
        (0.5, 0.99, "did not fail"),
    ],
)
def test_what_made_exp3_fail(exp3: float, without: float, verdict: str) -> None:
    """A model of 0.9 neither failed nor learned: its interval reaches to both sides of that."""
    runs = [stored("exp3", "wave_spec", (exp3, exp3)), stored("exp3_adam", "wave_spec", (without, without))]
    group = group_of(runs)
    assert verdicts(group)["H2a: SGD made exp3 fail"] == [verdict, verdict]


def test_what_differs_between_the_runs_of_a_pair_is_named(tmp_path: Path) -> None:
    pairs = [("exp1", "none"), ("exp2_other", "wave_spec_no_noise")]
    pairs += [(name, augment) for name in EXP3_VARIANTS for augment in ("wave_spec", "wave_spec_no_noise")]
    runs = [configured(stored(*pair, (0.5, 0.5))) for pair in pairs]
    _, markdown = written(tmp_path, runs)
    differs = {
        claim: [row[4] for row in rows_of(markdown, claim) if "(test-clean)" in row[0] and "mean" not in row[0]]
        for claim in (
            "exp2 beats exp1", "H1b: noise costs accuracy", "H2a: SGD made exp3 fail",
            "H2b: SGD costs accuracy", "H3a: its schedule made exp3 fail",
        )
    }  # fmt: skip
    assert differs["exp2 beats exp1"] == [
        "augment, batch.utterances, data, model, optimizer, optimizer.lr, scheduler.max_lr"
    ]
    assert differs["H1b: noise costs accuracy"] == ["augment"] * 4
    assert differs["H2a: SGD made exp3 fail"] == ["optimizer"]
    both = "optimizer, optimizer.lr, scheduler.max_lr"
    assert differs["H2b: SGD costs accuracy"] == ["optimizer", "optimizer", both, both]
    assert differs["H3a: its schedule made exp3 fail"] == ["optimizer.lr, scheduler"]
    assert [row[4] for row in rows_of(markdown, "other is harder than clean")] == ["test part", "-", *["test part"] * 2]


def test_what_changes_no_result_does_not_differ_and_other_code_does() -> None:
    one = configured(stored("exp3", "wave_spec", (0.5, 0.5)))
    other = replace(one, params=one.params | {"workers": "7", "output_dir": "y", "tracking.uri": "z"})
    assert differing_settings(one, other) == []
    assert differing_settings(one, replace(other, commit="abc", params=other.params | {"seed": "2"})) == [
        "commit", "seed"]  # fmt: skip


NASTY = "<b>a</b> & &lt; 'b' \"c\" | `d` *e* [f](g) ![h](i) _j_ ~~k~~ \\ <script>l</script>"


def test_names_and_texts_stand_in_both_outputs_as_they_are(tmp_path: Path) -> None:
    run = stored("exp3", "wave_spec", (0.5, 0.5), [f"data.train=[{NASTY}]"])
    heard = [one._replace(reference=NASTY, hypothesis=NASTY) for one in run.scored["test-clean"]]
    run = replace(run, scored={NASTY: heard}, plan=run.plan | {"name": NASTY, "command": NASTY, "device": NASTY})
    nasty = write_media(tmp_path, "1.png", b"picture", NASTY)
    page, markdown = written(tmp_path, [run], [LeftOut(NASTY, "FAILED", 1, NASTY)], command=NASTY,
                             augmentation={NASTY: [nasty]})  # fmt: skip
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    shown = [Page(text) for text in (page, rendered)]
    for one in shown:
        assert one.counts.keys().isdisjoint({"script", "b", "s", "em"})
        assert one.counts["img"] == 1
        assert " ".join(one.text.split()).count(NASTY) >= 2 * len(heard[:5]) + 8
    assert shown[0].counts["table"] == shown[1].counts["table"]


def test_a_picture_is_written_whatever_it_is_named_after(tmp_path: Path) -> None:
    """A choice of augment= may lie in a folder."""
    media = write_media(tmp_path, "mine/the (loud) one-all.png", b"picture", "a")
    _, markdown = written(tmp_path, [], augmentation={"mine/the (loud) one": [media]})
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.read_bytes() == b"picture"
    assert f"](pictures/{picture.name})" in markdown
    assert not set("( )") & set(picture.name)


@pytest.mark.parametrize(("more", "full"), [([], True), (["seed=2"], True), (["epochs=1"], False)])
def test_only_what_ran_as_in_the_writeup_may_be_set_against_it(more: list[str], full: bool, tmp_path: Path) -> None:
    sizes = published()["librispeech"]
    parts = [{"role": role, "source": part, "utterances": sizes[part]["utterances"], "hours": 1.0, "dropped": ""}
             for role, part in (("train", "train-clean-100"), ("test", "test-clean"))]  # fmt: skip
    run = stored("exp1", "none", (0.4, 0.5), ["data.root=LibriSpeech", *more])
    _, text = written(tmp_path, [replace(run, plan=run.plan | {"parts": parts})])
    assert ("may be compared with the writeup's." in text) == full
    assert ("none of our figures may be compared" in text) != full


@pytest.mark.parametrize("made_by_espeak", [True, False])
def test_a_synthetic_corpus_is_known_by_its_generators_file(made_by_espeak: bool, tmp_path: Path) -> None:
    root = tmp_path / ("mine" if made_by_espeak else "not_synthetic")
    (root / "test-clean").mkdir(parents=True)
    if made_by_espeak:
        (root / "test-clean" / "synthetic.json").touch()
    run = stored("exp1", "none", (0.4, 0.5))
    _, markdown = written(tmp_path, [replace(run, params=run.params | {"data.root": str(root)})])
    assert ("spoken by eSpeak NG" in markdown) == made_by_espeak


def test_seeds_of_a_config_are_one_sample_and_other_settings_are_not(tmp_path: Path) -> None:
    one = configured(stored("exp1", "none", (0.4, 0.5)))
    seeds = [replace(one, params=one.params | {"seed": str(n)}) for n in (1, 2, 2)]
    longer = replace(one, params=one.params | {"epochs": "7"})
    better = configured(stored("exp2_other", "wave_spec_no_noise", (0.1, 0.2)))
    runs = [*seeds, longer, better]
    group = group_of(runs)
    assert group.counts(Variant("exp1", "none"), "test-clean", "cer").errors.shape == (2, 40)
    assert group.counts(Variant("exp2_other", "none"), "test-clean", "cer") is None
    assert verdicts(group)["exp2 beats exp1"] == ["supported"]
    _, markdown = written(tmp_path, runs)
    assert "| exp1 (2 seeds) | " in markdown
    assert "the newest of each seed is shown: exp1 (4)" in markdown
    assert "Intervals resample 2 seeds, crossed with 40 utterances alone" in markdown


def test_models_that_learned_nothing_decide_nothing() -> None:
    runs = [stored("exp2_clean", "time_inversion", (1.0, 0.95)), stored("exp2_clean", "wave_spec", (0.97, 0.2))]
    group = group_of(runs)
    assert verdicts(group)["TimeInversion hurts"] == [Verdict.BOTH_FAILED, Verdict.SUPPORTED]


def test_nothing_to_report_on_is_a_paragraph(made, tmp_path) -> None:
    with pytest.raises(InputError, match=r"no such database.*python -m asr\.train"):
        report.run(compose_report(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "out"))
    with pytest.raises(InputError, match=r"experiment=empty: .* none of this name, but .*asr"):
        report.run(compose_report(made[0], tmp_path / "out", "tracking.experiment=empty"))
    with pytest.raises(InputError, match=r"tracking\.uri=null: .*give its address"):
        report.run(compose_report("null", tmp_path / "out"))
    with pytest.raises(InputError, match=r"tracking\.uri=sqlite:/x"):
        report.run(compose_report("sqlite:/x", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_groups_ignore_what_tells_their_runs_apart() -> None:
    own = ["experiment=exp1", "augment=none", "sweep=writeup", "workers=3", "tracking.uri=x", "init_from=a/best.pt"]
    assert group_key([*own, "scale=full"]) == ()
    assert group_key([*own, "scale=mini", "+model.x=1", "init_from=null"]) == (
        "+model.x=1",
        "init_from=null",
        "scale=mini",
    )
    assert group_runs([], CLAIMS.known) == ([], [])
    assert Group((), [], CLAIMS.known).label(Variant("exp1", "wave_spec")) == "exp1 with wave_spec"


@pytest.fixture
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed to open the page in")
    return found


def test_a_browser_shows_every_picture_and_plays_every_sound(made, browser, tmp_path) -> None:
    """A copy of the page writes into its title what was decoded."""
    look = (
        "<script>addEventListener('load', () => setTimeout(() => document.title = JSON.stringify("
        "[[...document.images].map(i => i.naturalWidth), [...document.querySelectorAll('audio')].map(a => a.duration)"
        "]), 500))</script></body>"
    )
    page = (made[1] / "index.html").read_text()
    (tmp_path / "copy.html").write_text(page.replace("</body>", look))
    dom = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'copy.html'}"],
        capture_output=True, text=True, timeout=100, check=True,
    ).stdout  # fmt: skip
    widths, seconds = json.loads(re.search("<title>(.*?)</title>", dom)[1])
    assert len(widths) == Page(page).counts["img"]
    assert min(widths) >= 100
    assert seconds == pytest.approx([0.5] * 3)
    assert dom.count("<table>") == Page(page).counts["table"]
    assert dom.count('class="badge') > 10
