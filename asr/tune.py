"""python -m asr.search search=decode: find the weights of a language model on dev. The model itself runs once.

python -m asr.search search=decode checkpoint=outputs/runs/quickstart/best.pt data=synthetic decode.lm=lm.arpa
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import torch
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from asr.artifacts.plots import DEV, OTHER, TRAIN, new_figure, save_picture, set_up_axes
from asr.cli import entry_point, no_such_setting
from asr.config.build import build_compute, build_decoder, load_recognizer, require_checkpoint
from asr.config.naming import override_key, shell_command
from asr.console import console, print_facts, print_table, progress_bar
from asr.corpora.manifest import Utterances
from asr.data.batches import Shard
from asr.data.loader import evaluation_batches
from asr.data.parts import load_parts
from asr.decoding.decoder import Decoder
from asr.decoding.greedy import Greedy
from asr.errors import InputError
from asr.evaluate import RULES as EVALUATE
from asr.files import write_table
from asr.metrics import ErrorRates, score
from asr.models.recognizer import Recognizer
from asr.searching.space import Space, read_distribution, show_setting
from asr.searching.study import quiet_optuna
from asr.settings import GROUP, check, one_of, whole, within
from asr.training import checkpoint
from asr.training.compute import Compute

RULES = {**EVALUATE, "metric": one_of("wer", "cer"), "trials": whole(1), "seed": whole(0), "space": GROUP}
OWN_KEYS = ("parts", "metric", "trials", "seed", "space", "output_dir", "decode")  # which asr.evaluate does not get
SHOWN = 10  # trials in the printed table


class Outputs(NamedTuple):
    """What the model gave for a batch: log_probs (B, T, V), lengths (B,), and the references; seconds of audio."""

    log_probs: torch.Tensor
    lengths: torch.Tensor
    references: list[str]
    seconds: float


@entry_point("tune")
def main(config: DictConfig) -> None:
    """Find the weights, and print the command that tests them."""
    require_checkpoint(config)
    rows = run(config)
    columns = list(rows[0])
    for row in rows[:2]:
        print_facts({row["decoder"]: f"WER {row['wer']:.2%}  CER {row['cer']:.2%}"})
    table = Table(*columns, box=None, pad_edge=False)
    tried = sorted(rows[2:], key=lambda row: (row[config.metric], row["wer"], row["cer"]))
    for row in tried[:SHOWN]:
        table.add_row(*(f"{row[name]:.2%}" if name in ("wer", "cer") else show_setting(row[name]) for name in columns))
    print_table(f"dev ({', '.join(config.parts)}): the best of {len(tried)} trials", table)
    console.print(f"All trials and the plot: {config.output_dir}", soft_wrap=True)
    console.print(f"Score the best on the test parts:\n{test_command(config, tried[0])}", soft_wrap=True)


def run(config: DictConfig) -> list[dict[str, Any]]:
    """Write and return a row for greedy decoding, one for beam search without a model, and one for each trial."""
    check(config, RULES)
    if tested := set(config.parts) & set(config.data.test):
        raise InputError(
            f"parts={list(config.parts)}: {', '.join(sorted(tested))} is a test part (data.test), on which nothing may "
            "be chosen; name dev parts"
        )
    space = read_space(config)
    path = Path(config.checkpoint)
    recognizer = load_recognizer(config, checkpoint.load(path), path)
    build_decoder(config.decode, recognizer.alphabet)  # loads the language model, so that a mistake is found now
    compute = build_compute(config.device, config.precision)
    recognizer.model.to(compute.device)
    utterances = Utterances.joined([utterances for _, utterances in load_parts(config.data, config.parts)])
    outputs = compute_outputs(recognizer, compute, utterances, config)
    alone = {"lm": None, "lexicon": None}
    rows = [
        {"decoder": "greedy", **measure(Greedy(recognizer.alphabet), outputs), **dict.fromkeys(space.drawn)},
        {"decoder": "beam", **measure(build(config, recognizer, alone), outputs), **dict.fromkeys(space.drawn)},
    ]
    quiet_optuna()
    sampler = optuna.samplers.TPESampler(seed=config.seed, n_startup_trials=max(1, config.trials // 3))
    study = optuna.create_study(sampler=sampler)
    with progress_bar() as bar:
        for number in bar.track(range(config.trials), description="trials"):
            trial = study.ask()
            values = space.suggest(trial)
            found = measure(build(config, recognizer, values), outputs)
            study.tell(trial, found[config.metric])
            rows.append({"decoder": f"trial {number}", **found, **values})
    directory = Path(config.output_dir)
    write_table(rows, directory / "trials.tsv")
    save_picture(plot_trials(rows, config.metric, list(space.drawn)), directory / "tuning.png")
    return rows


def read_space(config: DictConfig) -> Space:
    """Return the settings of `decode` that are tried; InputError for one that does not exist or is invalid."""
    drawn = {}
    for key, node in config.space.items():
        if key not in config.decode or key in ("lm", "lexicon"):
            raise InputError(f"space: {no_such_setting(config, f'decode.{key}')}; lm and lexicon are not searched")
        if not OmegaConf.is_dict(node):
            raise InputError(f"space.{key}={node}: give low and high, or choices, such as {{low: 0, high: 2}}")
        drawn[str(key)] = read_distribution(f"space.{key}", dict(node))
    if not drawn:
        raise InputError("space is empty: name a setting of decode, such as space.lm_weight={low: 0, high: 2}")
    return Space(drawn, {})


def build(config: DictConfig, recognizer: Recognizer, values: dict[str, Any]) -> Decoder:
    """Return the config's decoder with other values of some settings."""
    return build_decoder(OmegaConf.create({**config.decode, **values}), recognizer.alphabet)


@torch.inference_mode()
def compute_outputs(
    recognizer: Recognizer, compute: Compute, utterances: Utterances, config: DictConfig
) -> list[Outputs]:
    """Run the model over all utterances."""
    model, dataset = recognizer.model.eval(), recognizer.dataset(augment=None, seed=0)
    batches = evaluation_batches(
        dataset, utterances, config.eval_seconds, config.workers, compute.pin_memory, Shard(0, 1)
    )
    outputs = []
    for batch in batches:
        with compute.autocast():
            log_probs, lengths = model(batch.features.to(compute.device), batch.lengths)
        outputs.append(Outputs(log_probs.float().cpu(), lengths.cpu(), batch.references, batch.seconds))
    return outputs


def measure(decoder: Decoder, outputs: list[Outputs]) -> dict[str, float]:
    """Return the error rates of a decoder, and how many times faster than speech it is, the model not included."""
    start = time.perf_counter()
    texts = [found[0].text for batch in outputs for found in decoder(batch.log_probs, batch.lengths)]
    seconds = time.perf_counter() - start
    references = [reference for batch in outputs for reference in batch.references]
    rates = ErrorRates.of([score("", *pair) for pair in zip(references, texts, strict=True)])
    speed = sum(batch.seconds for batch in outputs) / seconds
    return {"wer": rates.words.rate, "cer": rates.characters.rate, "x_real_time": float(f"{speed:.3g}")}


def plot_trials(rows: list[dict[str, Any]], metric: str, keys: list[str]) -> Figure:
    """Plot the trials' error rate over each searched setting, with those of the decoders that use no model."""
    figure = new_figure(4.5)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    greedy, beam, *trials = rows
    best = min(trials, key=lambda row: row[metric])
    for ax, key in zip(panels, keys, strict=True):
        ax.scatter([row[key] for row in trials], [100 * row[metric] for row in trials], color=DEV, s=22)
        ax.scatter(best[key], 100 * best[metric], color=OTHER, s=60, label=f"best: {show_setting(best[key])}")
        ax.axhline(100 * greedy[metric], color=TRAIN, linestyle="--", label="greedy")
        ax.axhline(100 * beam[metric], color=TRAIN, linestyle=":", label="beam, no model")
        set_up_axes(ax, f"dev {metric.upper()}, %" if ax is panels[0] else "", key)
        ax.legend(frameon=False)
    return figure


def test_command(config: DictConfig, best: dict[str, Any]) -> str:
    """Return the command that scores the best trial's settings on the test parts."""
    hydra: Any = HydraConfig.get()
    typed = list(hydra.overrides.task)
    decode = {key: value for key, value in best.items() if key in config.space}
    fixed = [one for one in typed if within(override_key(one), ("decode",)) and "." in override_key(one)]
    kept = [override for override in typed if not within(override_key(override), OWN_KEYS)]
    return shell_command(
        "asr.evaluate",
        [
            *kept,
            f"decode={hydra.runtime.choices.decode}",
            *fixed,
            *(f"decode.{key}={show_setting(value)}" for key, value in decode.items()),
        ],
    )


if __name__ == "__main__":
    main()
