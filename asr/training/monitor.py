"""Display, log, save and judge the progress of a training."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from asr.console import console, progress_bar
from asr.data.dataset import Batch
from asr.errors import DivergedError, InputError
from asr.files import write_json, write_text
from asr.tracking.run import Run
from asr.training import checkpoint
from asr.training.doctor import diagnose
from asr.training.experiment import Experiment
from asr.training.signals import Interrupted, deferred
from asr.training.state import TrainState, generators
from asr.training.step import StepMetrics

LOGGED = ("loss", "learning_rate", "grad_norm", "audio_seconds_per_second", "padding_share")  # of a step, in MLflow
EXAMPLES = "dev_examples"  # the one field of an epoch's record that is no number: a table in MLflow
SAVE = 1  # stands for a save that is due, among the numbers of signals; no signal of ours has it
STATES_KEPT = 3  # checkpoints of steps that were not finite


def example_lines(examples: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return a line for each example, at most so wide: the reference and the hypothesis, each cut to half of it."""
    half = width // 2 - 4
    pairs = [(one["reference"], one["hypothesis"].strip() or "(nothing)") for one in examples]
    cut = [[text if len(text) <= half else f"{text[: half - 3]}..." for text in pair] for pair in pairs]
    longest = max((len(reference) for reference, _ in cut), default=0)
    return [f"    {reference:{longest}} -> {hypothesis}" for reference, hypothesis in cut]


class TrainingMonitor:
    """Display, log and checkpoint training progress; stop on a signal, or if too much of the data is unusable.

    As a context manager it shows a progress bar, and makes SIGINT and SIGTERM wait for the end of a step.

    tracked:   of the main process, which alone displays, logs and writes; None in the others
    directory: of the run: history.jsonl, the checkpoints, unreadable.jsonl and non_finite/
    """

    def __init__(self, run: Experiment, state: TrainState, directory: Path, tracked: Run | None) -> None:
        self.run, self.config, self.world = run, run.config, run.compute.world
        self.directory, self.tracked = directory, tracked
        self.bar, self.resources = progress_bar(), ExitStack()
        self.task = self.bar.add_task("", total=run.total_steps, completed=state.step, figures="")
        self.saved_at = time.monotonic()
        self.utterances = sum(len(selection.kept) for selection in run.data.train.values())
        self.unreadable_list = directory / "unreadable.jsonl"
        lines = self.unreadable_list.read_text().splitlines() if self.unreadable_list.exists() else []
        self.unreadable = {json.loads(line)["id"] for line in lines}

    def __enter__(self) -> "TrainingMonitor":
        self.resources.enter_context(self.bar)
        self.stop = self.resources.enter_context(deferred(self.world.max))
        return self

    def __exit__(self, *error: object) -> None:
        self.resources.__exit__(*error)  # type: ignore[arg-type]

    def step(self, state: TrainState, metrics: StepMetrics) -> None:
        """Display and log a step.

        raises: Interrupted if a signal asked any process to stop; InputError if too many utterances cannot be read;
                DivergedError if too many steps in a row were not finite
        """
        if self.tracked:
            self._display(state, metrics)
            if state.step % self.config["tracking"]["log_every"] == 0:
                self.tracked.log_metrics({f"step/{name}": getattr(metrics, name) for name in LOGGED}, state.step)
        if metrics.unreadable or state.non_finite_in_a_row:
            with self.world.errors_shared():
                if self.world.is_main:
                    self._record_non_finite(state, metrics)
                    self._record_unreadable(state, metrics)
        minutes = (time.monotonic() - self.saved_at) / 60
        is_due = self.world.is_main and minutes > self.config["checkpoint"]["every_minutes"]
        asked = self.world.max(self.stop.number or (SAVE if is_due else 0))
        if asked == SAVE:
            self.save(state)
        elif asked:
            raise Interrupted(asked)

    def until_stopped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation; raise Interrupted instead of the next one after a signal."""
        return self.stop.heeded(batches)

    def epoch(self, state: TrainState) -> None:
        """Record and save a finished epoch, in this order: a run that is killed in between repeats the rest of it."""
        advice = diagnose(state.history, self.config)
        with self.world.errors_shared():
            if self.tracked:
                self._record_epoch(state, self.tracked, advice)
        self.save(state)
        self._display_epoch(state, advice)

    def save(self, state: TrainState) -> None:
        """Write last.pt, from which the run resumes at the next batch."""
        others = self.world.gather(generators())[1:]
        with self.world.errors_shared():
            if self.world.is_main:
                checkpoint.save_last(state.to_checkpoint(self.config, others), self.directory)
        self.saved_at = time.monotonic()

    def _display(self, state: TrainState, metrics: StepMetrics) -> None:
        self.bar.update(
            self.task,
            completed=state.step,
            description=f"epoch {state.epoch + 1}/{self.run.epochs}",
            figures=f"loss {metrics.loss:.3f}  lr {metrics.learning_rate:.2e}  "
            f"{metrics.audio_seconds_per_second:.0f} audio-s/s",
        )

    def _record_epoch(self, state: TrainState, tracked: Run, advice: str) -> None:
        write_text("".join(json.dumps(record) + "\n" for record in state.history), self.directory / "history.jsonl")
        names = (name for name in state.history[-1] if name.startswith(("train_", "dev_")) and name != EXAMPLES)
        tracked.log_metrics({name.replace("_", "/", 1): state.history[-1][name] for name in names}, state.step)
        rows = [{"epoch": record["epoch"]} | one for record in state.history for one in record[EXAMPLES]]
        tracked.log_table(rows, EXAMPLES)
        if advice:
            tracked.set_tag("doctor", advice)
        if state.is_best:
            checkpoint.save(state.to_checkpoint(self.config), self.directory / checkpoint.BEST)

    def _display_epoch(self, state: TrainState, advice: str) -> None:
        record = state.history[-1]
        left_out = {"non-finite steps": record["train_non_finite"], "unreadable": record["train_unreadable"]}
        self.bar.console.print(
            f"epoch {state.epoch:>3}/{self.run.epochs}  train loss {record['train_loss']:.3f}  "
            f"dev loss {record['dev_loss']:.3f}  WER {record['dev_wer']:.2%}  CER {record['dev_cer']:.2%}  "
            f"lr {record['learning_rate']:.2e}  {record['train_audio_seconds_per_second']:.0f} audio-s/s  "
            f"{record['train_wall_seconds'] + record['dev_wall_seconds']:.0f} s"
            + "".join(f"  {count} {name}" for name, count in left_out.items() if count)
            + ("  best" if state.is_best else "")
        )
        for line in example_lines(record[EXAMPLES], self.bar.console.width):
            self.bar.console.print(line, soft_wrap=True)
        if advice:
            self.bar.console.print(advice, soft_wrap=True)

    def _record_unreadable(self, state: TrainState, metrics: StepMetrics) -> None:
        new = [one for one in metrics.unreadable if one.id not in self.unreadable]
        for one in new:
            self.unreadable.add(one.id)
            with open(self.unreadable_list, "a") as file:
                file.write(json.dumps({**one._asdict(), "step": state.step}) + "\n")
            console.print(f"Left out at step {state.step:,}: {one.id}: {one.reason}", soft_wrap=True)
        most = self.config["max_unreadable_share"]
        if new and len(self.unreadable) / self.utterances > most:
            raise InputError(
                f"{len(self.unreadable):,} of {self.utterances:,} training utterances cannot be read, more than "
                f"max_unreadable_share={most}; {self.unreadable_list} names them, the last: {new[-1].id}: "
                f"{new[-1].reason}. Restore the files, or raise the share, and rerun the command to resume"
            )

    def _record_non_finite(self, state: TrainState, metrics: StepMetrics) -> None:
        """Record a step that was not finite, and the state at the first of several in a row."""
        if not state.non_finite_in_a_row:
            return
        folder, most = self.directory / "non_finite", self.config["max_non_finite"]
        folder.mkdir(exist_ok=True)
        name = f"step-{state.step:06}"
        seen = {"step": state.step, "loss": metrics.loss, "grad_norm": metrics.grad_norm,
                "learning_rate": metrics.learning_rate, "position": metrics.position,
                "utterances": metrics.ids}  # fmt: skip
        write_json(seen, folder / f"{name}.json")
        if state.non_finite_in_a_row == 1 and len(list(folder.glob("*.pt"))) < STATES_KEPT:
            checkpoint.save(state.to_checkpoint(self.config), folder / f"{name}.pt")
        what = (
            f"step {state.step:,}: the loss is {metrics.loss} and the gradient norm {metrics.grad_norm}, at a learning "
            f"rate of {metrics.learning_rate:.2e}, on utterances {', '.join(metrics.ids)}"
        )
        console.print(f"Skipped {what}", soft_wrap=True)
        if state.non_finite_in_a_row >= most:
            raise DivergedError(
                f"{most} steps in a row were not finite (max_non_finite={most}), the last {what}. Lower the learning "
                f"rate or max_grad_norm; {folder} holds the batches and the state, and earlier checkpoints are whole"
            )
