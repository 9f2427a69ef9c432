"""Read training runs back from MLflow: what they planned, how they went, what they scored."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from asr.artifacts.error_table import parse_utterances
from asr.errors import first_line
from asr.metrics import Scored, score
from asr.reporting.claims import Variant
from asr.reporting.intervals import Errors, count_errors
from asr.settings import flatten

MAX_RUNS = 50_000  # which a server gives at most
KIND_TAG = "kind"  # of runs that are no training: the parent of a sweep, a report
PLAN = ("name", "command", "overrides", "device", "parameters", "total_steps", "parts")
HISTORY = ["train_utterances", "train_audio_seconds", "train_wall_seconds", "dev_wall_seconds", "dev_loss",
           "dev_mean_cer", "dev_mean_wer"]  # fmt: skip


class UnreadableError(Exception):
    """An artifact is missing or is not what a training run writes; the message names it."""


@dataclass(frozen=True)
class StoredRun:
    """A finished run.

    params:         every setting as a string, and the choices of the groups
    dirty:          whether it was started with uncommitted changes
    plan:           the keys PLAN of its plan.json
    history:        a row for each epoch with the columns HISTORY; nan where the run has no such value
    scored:         the utterances of each test part
    packages:       version by name, python among them
    learning_rates: share (of the training done) and learning_rate, as logged
    """

    run_id: str
    params: dict[str, str]
    commit: str
    dirty: bool
    plan: dict[str, Any]
    history: pd.DataFrame
    scored: dict[str, list[Scored]]
    packages: dict[str, str]
    learning_rates: pd.DataFrame

    @property
    def variant(self) -> Variant:
        """Return the choices of experiment= and augment=, empty if there was none."""
        return Variant(self.params.get("experiment", ""), self.params.get("augment", ""))

    @property
    def totals(self) -> pd.Series:
        """Return the sum of each column of the history; nan if any epoch lacks it."""
        return self.history.sum(skipna=False)

    def counts(self, part: str, measure: str) -> Errors:
        """Return the errors on a test part; measure: as in count_errors."""
        return count_errors([self.scored[part]], measure)


class LeftOut(NamedTuple):
    """A run that the report cannot use, as it did not finish or an artifact of it cannot be read; status: MLflow's."""

    name: str
    status: str
    epochs: int
    reason: str


class RunStore:
    """The training runs of one MLflow experiment.

    raises: InputError if they cannot be found
    """

    def __init__(self, uri: str, experiment: str) -> None:
        from asr.tracking.mlflow import find_experiment  # imports mlflow, which takes seconds

        self.client, self.experiment_id = find_experiment(uri, experiment)
        self.last_read = ""  # the artifact at fault if its content cannot be used

    def read(self) -> tuple[list[StoredRun], list[LeftOut]]:
        """Return the runs that are finished and complete, and the others, both with the newest first."""
        runs, others = [], []
        for found in self.client.search_runs([self.experiment_id], max_results=MAX_RUNS):
            if KIND_TAG in found.data.tags:
                continue
            try:
                if found.info.status != "FINISHED":
                    raise UnreadableError("it did not finish")
                runs.append(self._read(found))
            except UnreadableError as reason:
                epochs = len(self.client.get_metric_history(found.info.run_id, "dev/loss"))
                others.append(LeftOut(found.info.run_name, found.info.status, epochs, str(reason)))
        return runs, others

    def _read(self, found: Any) -> StoredRun:
        run_id, tags = found.info.run_id, found.data.tags
        rates = self.client.get_metric_history(run_id, "step/learning_rate")
        try:
            stored_plan = json.loads(self.read_file(run_id, "plan.json"))
            plan = {key: stored_plan[key] for key in PLAN}
            shares = sorted((point.step / plan["total_steps"], point.value) for point in rates)
            records = [json.loads(line) for line in self.read_file(run_id, "history.jsonl").splitlines()]
            history = pd.DataFrame(records, columns=HISTORY, dtype=float)
            settings = flatten(json.loads(self.read_file(run_id, "start/config.json")))
            packages = self.read_file(run_id, "start/packages.txt").decode().splitlines()
            results = json.loads(self.read_file(run_id, "results.json"))
            return StoredRun(
                run_id=run_id,
                params={key: str(value) for key, value in settings.items()} | found.data.params,
                commit=tags.get("mlflow.source.git.commit", "none"),
                dirty=tags.get("start.dirty") == "True",
                plan=plan,
                history=history,
                scored={part: self._scored(run_id, part) for part in results},
                packages=dict(line.split("==", 1) for line in packages if "==" in line),
                learning_rates=pd.DataFrame(shares, columns=["share", "learning_rate"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableError(f"{self.last_read} is not what a training run writes: {first_line(error)}") from error

    def _scored(self, run_id: str, part: str) -> list[Scored]:
        """Count the errors again from the texts. A resumed run may have logged its table twice: an id counts once.

        Runs of older versions have only the table, without speakers.
        """
        path = f"errors/{part}/utterances.jsonl"
        if path in self.file_names(run_id, f"errors/{part}"):
            scored = parse_utterances(self.read_file(run_id, path).decode())
        else:
            rows = pd.DataFrame(**json.loads(self.read_file(run_id, f"errors/{part}.json"))).astype(str)
            rows = rows.drop_duplicates("id", keep="last")
            scored = [score(*texts) for texts in zip(rows.id, rows.reference, rows.hypothesis, strict=True)]
        if not scored:
            raise ValueError("no utterance")
        return scored

    def read_file(self, run_id: str, path: str) -> bytes:
        """Return an artifact's bytes; UnreadableError if it cannot be had."""
        self.last_read = path
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_bytes()
            except Exception as error:  # stores and servers raise what they like
                raise UnreadableError(f"{path} is missing or cannot be read") from error

    def file_names(self, run_id: str, folder: str) -> list[str]:
        """Return the paths of the artifacts in a folder; UnreadableError if they cannot be listed."""
        try:
            return [file.path for file in self.client.list_artifacts(run_id, folder)]
        except Exception as error:  # as above
            raise UnreadableError(f"{folder} cannot be listed") from error
