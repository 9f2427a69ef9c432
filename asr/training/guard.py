"""What a training survives, and up to where: utterances that cannot be read, and steps that are not finite."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr.console import console
from asr.errors import DivergedError, InputError
from asr.files import write_json
from asr.training import checkpoint
from asr.training.state import TrainState
from asr.training.step import StepMetrics

STATES_KEPT = 3  # of steps that were not finite: a checkpoint each


class Guard:
    """Counts and records what was left out; refuses where it is too much.

    directory:  of the run; unreadable.jsonl has a line for each such utterance, non_finite/ the batches and the first
                few states
    utterances: that the run trains on
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], utterances: int) -> None:
        self.directory, self.config, self.utterances = directory, config, utterances
        self.list = directory / "unreadable.jsonl"
        lines = self.list.read_text().splitlines() if self.list.exists() else []
        self.unreadable = {json.loads(line)["id"] for line in lines}
        self.to_keep: Path | None = None
        self.refusal: InputError | None = None

    def check(self, state: TrainState, metrics: StepMetrics) -> None:
        """Records what is to be known of a step, while later ones may have been computed."""
        self._record_unreadable(state, metrics)
        if state.non_finite_in_a_row:
            self._record_step(state, metrics)

    def judge(self, state: TrainState) -> None:
        """When all steps that were computed are checked.

        Keeps the state of the first bad step in a row (where several are read at once, that of the last one read).
        raises: InputError for too many unreadable utterances, DivergedError for too many steps
        """
        if self.to_keep:
            checkpoint.save(state.to_checkpoint(dict(self.config)), self.to_keep)
            self.to_keep = None
        if self.refusal:
            raise self.refusal

    def _record_unreadable(self, state: TrainState, metrics: StepMetrics) -> None:
        new = [one for one in metrics.unreadable if one.id not in self.unreadable]
        for one in new:
            self.unreadable.add(one.id)
            with open(self.list, "a") as file:
                file.write(json.dumps({**one._asdict(), "step": state.step}) + "\n")
            console.print(f"Left out at step {state.step:,}: {one.id}: {one.reason}", soft_wrap=True)
        share = len(self.unreadable) / self.utterances
        if new and share > self.config["max_unreadable_share"]:
            self.refusal = InputError(
                f"{len(self.unreadable):,} of {self.utterances:,} training utterances cannot be read, more than "
                f"max_unreadable_share={self.config['max_unreadable_share']}; {self.list} names them, the last: "
                f"{new[-1].id}: {new[-1].reason}. Restore the files, or raise the share; the same command then goes on"
            )

    def _record_step(self, state: TrainState, metrics: StepMetrics) -> None:
        folder, most = self.directory / "non_finite", self.config["max_non_finite"]
        folder.mkdir(exist_ok=True)
        name = f"step-{state.step:06}"
        seen: dict[str, Any] = {"step": state.step, "loss": metrics.loss, "grad_norm": metrics.grad_norm}
        seen |= {"learning_rate": metrics.learning_rate, "position": metrics.position, "utterances": metrics.ids}
        write_json(seen, folder / f"{name}.json")
        if state.non_finite_in_a_row == 1 and len(list(folder.glob("*.pt"))) < STATES_KEPT:
            self.to_keep = folder / f"{name}.pt"
        what = (
            f"step {state.step:,}: the loss is {metrics.loss} and the gradient norm {metrics.grad_norm}, at a learning "
            f"rate of {metrics.learning_rate:.2e}, on utterances {', '.join(metrics.ids)}"
        )
        console.print(f"Skipped {what}", soft_wrap=True)
        if state.non_finite_in_a_row >= most:
            self.refusal = DivergedError(
                f"{most} steps in a row were not finite (max_non_finite={most}), the last {what}. Lower the learning "
                f"rate or max_grad_norm; {folder} holds the batches and the state, and earlier checkpoints are whole"
            )
