"""python -m asr.evaluate: word and character error rates of a checkpoint on parts of a corpus.

python -m asr.evaluate checkpoint=outputs/runs/quickstart/best.pt data=synthetic
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr import artifacts, checkpoint
from asr.build import build_compute, load_parts, score_parts
from asr.cli import entry_point
from asr.console import console, print_results
from asr.errors import InputError
from asr.metrics import ErrorRates
from asr.recognizer import from_checkpoint
from asr.settings import GROUP, POSITIVE, TEXT, TEXTS, WHOLE_FROM_0, Rules, check

RULES: Rules = {
    GROUP: "data",
    TEXT: "checkpoint device precision output_dir data.root data.manifests",
    TEXTS: "parts",
    POSITIVE: "eval_seconds",
    WHOLE_FROM_0: "workers",
}


@entry_point("evaluate")
def main(config: DictConfig) -> None:
    """Scores every part, prints the table, and writes it with the utterances' errors."""
    if OmegaConf.is_missing(config, "checkpoint"):
        raise InputError("checkpoint is not given: name a file, such as checkpoint=outputs/runs/quickstart/best.pt")
    results = run(config)
    print_results(str(config.checkpoint), results)
    console.print(f"Every utterance with its errors, worst first: {config.output_dir}", soft_wrap=True)


def run(config: DictConfig) -> dict[str, ErrorRates]:
    """Error rates by part."""
    check(config, RULES)
    path = Path(config.checkpoint)
    saved = checkpoint.load(path)
    recognizer = from_checkpoint(saved, path)
    compute = build_compute(config.device, config.precision)
    recognizer.model.to(compute.device)
    parts = {part: selection.kept for part, selection in load_parts(config.data, config.parts).items()}
    evaluations = score_parts(recognizer, compute, parts, config.eval_seconds, config.workers)
    directory = Path(config.output_dir)
    for part, evaluation in evaluations.items():
        artifacts.write_table(artifacts.error_rows(evaluation.scored), directory / "errors" / f"{part}.tsv")
    results = {part: evaluation.rates for part, evaluation in evaluations.items()}
    artifacts.write_json({part: rates.to_json() for part, rates in results.items()}, directory / "results.json")
    return results


if __name__ == "__main__":
    main()
