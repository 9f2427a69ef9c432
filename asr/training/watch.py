"""What becomes of the progress that `fit` reports: the bar, MLflow, checkpoints, a line for each epoch."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from asr.files import write_text
from asr.tracking.run import Run
from asr.training import checkpoint
from asr.training.checkpoint import BEST
from asr.training.distributed import World
from asr.training.guard import Guard
from asr.training.signals import Interrupted, StopRequest
from asr.training.state import TrainState, generators
from asr.training.step import StepMetrics

SAVE = 1  # no signal that we heed


class Watch:
    """Shows, logs and saves what `fit` reports."""

    def __init__(
        self,
        bar: Progress,
        tracked: Run | None,  # the main process has one
        directory: Path,
        config: dict[str, Any],
        guard: Guard,
        stop: StopRequest,
        world: World,
        steps_done: int,
        total_steps: int,
        after_epoch: Callable[[TrainState], None] | None = None,
    ) -> None:
        self.bar, self.tracked, self.directory, self.config = bar, tracked, directory, config
        self.guard, self.stop, self.after_epoch = guard, stop, after_epoch
        self.world, self.suspicious = world, False
        self.save_every = 60 * config["checkpoint"]["every_minutes"]
        self.saved_at = time.monotonic()
        self.log_every = config["tracking"]["log_every"]
        self.task = bar.add_task("", total=total_steps, completed=steps_done, figures="")

    def step(self, state: TrainState, metrics: StepMetrics) -> None:
        """Every step moves the bar; every log_every-th is logged. Only the main process tells and writes."""
        self.suspicious |= bool(metrics.unreadable or state.non_finite_in_a_row)
        if self.tracked is None:
            return
        self.guard.check(state, metrics)
        speed = metrics.audio_seconds / metrics.wall_seconds
        self.bar.update(
            self.task,
            completed=state.step,
            description=f"epoch {state.epoch + 1}/{self.config['epochs']}",
            figures=f"loss {metrics.loss:.3f}  lr {metrics.learning_rate:.2e}  {speed:.0f} audio-s/s",
        )
        if state.step % self.log_every == 0:
            self.tracked.log_metrics(
                {
                    "step/loss": metrics.loss,
                    "step/learning_rate": metrics.learning_rate,
                    "step/grad_norm": metrics.grad_norm,
                    "step/audio_seconds_per_second": speed,
                    "step/padding_share": metrics.padding_share,
                },
                state.step,
            )

    def ask(self) -> int:
        """What is waited for: the end, as the number of a signal; SAVE, as a long epoch is saved now and then; or 0."""
        is_due = self.world.is_main and time.monotonic() - self.saved_at > self.save_every
        return self.world.max(self.stop.number or (SAVE if is_due else 0))

    def read(self, state: TrainState, asked: int) -> None:
        """All steps were seen: what was asked for is done. raises: Interrupted if it is the end"""
        if self.suspicious:
            self.suspicious = False
            self.world.on_main(lambda: self.guard.judge(state))
        if asked == SAVE:
            self.save(state)
        elif asked:
            raise Interrupted(asked)

    def save(self, state: TrainState) -> None:
        """Where the same command goes on: at the next batch."""
        others = self.world.gather(generators())[1:]
        self.world.on_main(lambda: checkpoint.save_last(state.to_checkpoint(self.config, others), self.directory))
        self.saved_at = time.monotonic()

    def epoch(self, state: TrainState, better: bool) -> None:
        """Records first, then saves: killed in between, the run does the epoch's end again, and nothing is missing."""
        self.world.on_main(lambda: self._record_epoch(state, better))
        self.save(state)
        self._tell_epoch(state, better)
        if self.after_epoch:
            self.after_epoch(state)

    def _record_epoch(self, state: TrainState, better: bool) -> None:
        write_text("".join(json.dumps(record) + "\n" for record in state.history), self.directory / "history.jsonl")
        record = state.history[-1]
        assert self.tracked is not None
        self.tracked.log_metrics(
            {key.replace("_", "/", 1): value for key, value in record.items() if key.startswith(("train_", "dev_"))},
            state.step,
        )
        if better:
            checkpoint.save(state.to_checkpoint(self.config), self.directory / BEST)

    def _tell_epoch(self, state: TrainState, better: bool) -> None:
        record = state.history[-1]
        left_out = {"non-finite steps": record["train_non_finite"], "unreadable": record["train_unreadable"]}
        self.bar.console.print(
            f"epoch {state.epoch:>3}/{self.config['epochs']}  train loss {record['train_loss']:.3f}  "
            f"dev loss {record['dev_loss']:.3f}  WER {record['dev_wer']:.2%}  CER {record['dev_cer']:.2%}  "
            f"lr {record['learning_rate']:.2e}  {record['train_audio_seconds_per_second']:.0f} audio-s/s  "
            f"{record['train_wall_seconds'] + record['dev_wall_seconds']:.0f} s"
            + "".join(f"  {count} {name}" for name, count in left_out.items() if count)
            + ("  best" if better else "")
        )
