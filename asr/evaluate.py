"""python -m asr.evaluate: word and character error rates of a checkpoint on parts of a corpus.

python -m asr.evaluate checkpoint=outputs/runs/quickstart/best.pt data=synthetic
python -m asr.evaluate checkpoint=outputs/runs/model-conv_net/best.pt model=conv_net --config-dir conf
"""

from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr.artifacts.error_page import TrainingWords, write_error_page
from asr.artifacts.error_table import error_rows, write_utterances
from asr.cli import entry_point
from asr.config.build import build_compute, build_decoder, load_recognizer, require_checkpoint
from asr.config.rules import TRAIN
from asr.console import console, print_results
from asr.data.parts import load_parts
from asr.data.selection import select
from asr.errors import InputError
from asr.files import write_json, write_table
from asr.metrics import ErrorRates
from asr.models.recognizer import Recognizer
from asr.settings import GROUP, POSITIVE, STRING, STRINGS, Rules, check, one_of, whole
from asr.training import checkpoint
from asr.training.checkpoint import Checkpoint
from asr.training.evaluation import score_parts

RULES: Rules = {
    "data": GROUP,
    "model": GROUP.or_null,
    "decode": GROUP,
    "data.root": STRING,
    "data.manifests": STRING,
    "checkpoint": STRING,
    "parts": STRINGS,
    "eval_seconds": POSITIVE,
    "device": STRING,
    "precision": one_of("auto", "float32", "bf16"),
    "workers": whole(0),
    "output_dir": STRING,
}


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    """Score every part, print the table, and write it with the utterances' errors."""
    require_checkpoint(config)
    results = run(config)
    print_results(str(config.checkpoint), results)
    for part in results:
        page = Path(config.output_dir) / "errors" / part / "errors.html"
        console.print(f"Errors of {part}, to open in a browser: {page}", soft_wrap=True)


def run(config: DictConfig) -> dict[str, ErrorRates]:
    """Return the error rates by part."""
    check(config, RULES)
    path = Path(config.checkpoint)
    saved = checkpoint.load(path)
    recognizer = load_recognizer(config, saved, path)
    decoder = build_decoder(config.decode, recognizer.alphabet)
    compute = build_compute(config.device, config.precision)
    recognizer.model.to(compute.device)
    parts = dict(load_parts(config.data, config.parts))
    evaluations = score_parts(recognizer, compute, decoder, parts, config.eval_seconds, config.workers)
    directory = Path(config.output_dir)
    for part, evaluation in evaluations.items():
        write_table(error_rows(evaluation.scored), directory / "errors" / f"{part}.tsv")
        write_utterances(evaluation.scored, directory / "errors" / part)
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    write_json({**settings, "trained": saved.config}, directory / "config.json")
    results = {part: evaluation.rates for part, evaluation in evaluations.items()}
    write_json({part: rates.to_json() for part, rates in results.items()}, directory / "results.json")
    words = training_words(saved, recognizer)
    for part, evaluation in evaluations.items():
        write_error_page(part, evaluation.scored, parts[part], recognizer, words, directory / "errors" / part)
    return results


def training_words(saved: Checkpoint, recognizer: Recognizer) -> TrainingWords:
    """Count the words of what the checkpoint was trained on, where that corpus is on this machine."""
    config = {"data": saved.config.get("data")}
    try:
        check(config, {key: rule for key, rule in TRAIN.items() if key.startswith("data.")})
        data = OmegaConf.create(config["data"])
        if "://" in data.root + data.manifests:  # a file of somebody else's must not choose what is fetched
            raise InputError(f"data.root={data.root} is not on this machine")
        bounds = recognizer.output_frames, data.max_seconds, data.max_characters
        parts = load_parts(data, data.train)
        kept = {part: select(all_of, recognizer.alphabet, *bounds).kept for part, all_of in parts}
    except InputError as error:
        return TrainingWords(Counter(), f"Not counted, as the training transcripts are not here: {error}.")
    return TrainingWords.of(kept, recognizer.alphabet)


if __name__ == "__main__":
    main()
