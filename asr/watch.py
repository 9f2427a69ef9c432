"""What becomes of the progress that `fit` reports: the bar, MLflow, checkpoints, a line for each epoch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from asr import checkpoint
from asr.checkpoint import TrainState
from asr.loop import StepMetrics
from asr.tracking import Run


class Watch:
    """Shows, logs and saves what `fit` reports."""

    def __init__(
        self,
        bar: Progress,
        tracked: Run,
        directory: Path,
        config: dict[str, Any],
        steps_done: int,
        total_steps: int,
        after_epoch: Callable[[TrainState], None] | None = None,
    ) -> None:
        self.bar, self.tracked, self.directory, self.config = bar, tracked, directory, config
        self.after_epoch = after_epoch
        self.log_every = config["tracking"]["log_every"]
        self.task = bar.add_task("", total=total_steps, completed=steps_done, figures="")

    def step(self, state: TrainState, metrics: StepMetrics) -> None:
        """Every step moves the bar; every log_every-th is logged."""
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

    def epoch(self, state: TrainState, better: bool) -> None:
        """Saves first, then tells: a line on the terminal, history.jsonl, MLflow."""
        saved = state.to_checkpoint(self.config)
        if better:  # before last.pt: killed in between, the run does this epoch again and nothing is amiss
            checkpoint.save(saved, self.directory / "best.pt")
        checkpoint.save(saved, self.directory / "last.pt")
        lines = "".join(json.dumps(record) + "\n" for record in state.history)
        (self.directory / "history.jsonl").write_text(lines)
        record = state.history[-1]
        self.tracked.log_metrics(
            {key.replace("_", "/", 1): value for key, value in record.items() if key.startswith(("train_", "dev_"))},
            state.step,
        )
        self.bar.console.print(
            f"epoch {state.epoch:>3}/{self.config['epochs']}  train loss {record['train_loss']:.3f}  "
            f"dev loss {record['dev_loss']:.3f}  WER {record['dev_wer']:.2%}  CER {record['dev_cer']:.2%}  "
            f"lr {record['learning_rate']:.2e}  {record['train_audio_seconds_per_second']:.0f} audio-s/s  "
            f"{record['train_wall_seconds'] + record['dev_wall_seconds']:.0f} s{'  best' if better else ''}"
        )
        if self.after_epoch:
            self.after_epoch(state)
