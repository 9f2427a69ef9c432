"""Training runs read back from MLflow: what they planned, how they went, what they scored."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.console import PartPlan
from asr.errors import first_line
from asr.metrics import ErrorRates, Scored, score
from asr.settings import flatten

KIND_TAG = "kind"  # of runs that are no training: the parent of a sweep, a report


class UnreadableError(Exception):
    """An artifact is missing or is not what a training run writes; the message names it."""


@dataclass(frozen=True)
class Plan:
    """A run's plan, as in its plan.json."""

    name: str
    command: str
    overrides: tuple[str, ...]
    device: str
    parameters: int
    total_steps: int
    parts: list[PartPlan]


@dataclass(frozen=True)
class StoredRun:
    """A finished run. history: a record an epoch, as asr.train.epoch_record makes it; scored: by test part.

    started:        milliseconds since 1970
    learning_rates: (step, rate) as logged
    packages:       version by name, python among them
    """

    run_id: str
    started: int
    params: dict[str, str]
    commit: str
    dirty: bool
    plan: Plan
    history: list[dict[str, Any]]
    results: dict[str, ErrorRates]
    scored: dict[str, list[Scored]]
    packages: dict[str, str]
    learning_rates: list[tuple[int, float]]

    @property
    def experiment(self) -> str:
        """The choice of experiment=, empty if there was none."""
        return self.params.get("experiment", "")

    @property
    def augment(self) -> str:
        """The choice of augment=."""
        return self.params.get("augment", "")

    def total(self, name: str) -> float | None:
        """Return the sum of a column of the history; None if any epoch lacks it."""
        values = [record.get(name) for record in self.history]
        return None if any(value is None for value in values) else float(sum(map(float, values)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class LeftOut:
    """A run that the report cannot use: not finished, or an artifact of it cannot be read."""

    name: str
    status: str
    epochs: int
    reason: str

    @property
    def status_in_words(self) -> str:
        """Return the run's status as it is shown."""
        known = {"FINISHED": "finished, not usable", "KILLED": "stopped", "RUNNING": "running or cut off"}
        return known.get(self.status, self.status.lower())


class RunStore:
    """The training runs of one MLflow experiment.

    raises: InputError if they cannot be found
    """

    def __init__(self, uri: str, experiment: str) -> None:
        from asr.tracking.mlflow import find_experiment  # imports mlflow, which takes seconds

        self.client, self.experiment_id = find_experiment(uri, experiment)
        self.found = self._search()

    def _search(self) -> list[Any]:
        """Return every run that is a training, the newest first."""
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment_id], page_token=token)
            found += [run for run in page if KIND_TAG not in run.data.tags]
            token = page.token
            if not token:
                return found

    def read(self) -> tuple[list[StoredRun], list[LeftOut]]:
        """Return the runs that are finished and complete, and the others, both with the newest first."""
        runs, others = [], []
        for found in self.found:
            name, status = found.info.run_name, found.info.status
            try:
                if status != "FINISHED":
                    raise UnreadableError("it did not finish")
                runs.append(self._read(found))
            except UnreadableError as reason:
                others.append(LeftOut(name, status, self._epochs(found), str(reason)))
        return runs, others

    def _epochs(self, found: Any) -> int:
        return len(self.client.get_metric_history(found.info.run_id, "dev/loss"))

    def _read(self, found: Any) -> StoredRun:
        run_id, tags = found.info.run_id, found.data.tags
        plan = self._parsed(run_id, "plan.json", _plan)
        results = self._parsed(run_id, "results.json", _results)
        rates = self.client.get_metric_history(run_id, "step/learning_rate")
        return StoredRun(
            run_id=run_id,
            started=found.info.start_time,
            params=self._parsed(run_id, "start/config.json", _settings) | found.data.params,
            commit=tags.get("mlflow.source.git.commit", "none"),
            dirty=tags.get("start.dirty") == "True",
            plan=plan,
            history=self._parsed(run_id, "history.jsonl", _history),
            results=results,
            scored={part: self._parsed(run_id, f"errors/{part}.json", _scored) for part in results},
            packages=self._parsed(run_id, "start/packages.txt", _packages),
            learning_rates=sorted((point.step, point.value) for point in rates),
        )

    def _parsed(self, run_id: str, path: str, parse: Any) -> Any:
        content = self.read_file(run_id, path)
        try:
            return parse(content.decode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableError(f"{path} is not what a training run writes: {first_line(error)}") from error

    def read_file(self, run_id: str, path: str) -> bytes:
        """Return an artifact's bytes; UnreadableError if it cannot be had."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_bytes()
            except Exception as error:  # stores and servers raise what they like
                raise UnreadableError(f"{path} is missing or cannot be read") from error

    def file_names(self, run_id: str, folder: str) -> list[str]:
        """Return the paths of the artifacts in a folder; UnreadableError if they cannot be listed."""
        try:
            return [file.path for file in self.client.list_artifacts(run_id, folder) if not file.is_dir]
        except Exception as error:  # as above
            raise UnreadableError(f"{folder} cannot be listed") from error


def _plan(text: str) -> Plan:
    stored = json.loads(text)
    parts = [PartPlan(**part) for part in stored["parts"]]
    return Plan(
        str(stored["name"]),
        str(stored["command"]),
        tuple(map(str, stored["overrides"])),
        str(stored["device"]),
        int(stored["parameters"]),
        int(stored["total_steps"]),
        parts,
    )


def _settings(text: str) -> dict[str, str]:
    """Return every setting of a config.json; MLflow's own parameters are some of them, and the groups' choices."""
    return {key: str(value) for key, value in flatten(json.loads(text)).items()}


def _results(text: str) -> dict[str, ErrorRates]:
    return {part: ErrorRates.from_json(rates) for part, rates in json.loads(text).items()}


def _history(text: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in text.splitlines()]
    if not records or not all(isinstance(record, dict) for record in records):
        raise ValueError("no epoch")
    return records


def _scored(text: str) -> list[Scored]:
    """Count the errors again from the texts. A resumed run may have logged its table twice: an id counts once."""
    table = json.loads(text)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    texts = {str(row["id"]): (str(row["reference"]), str(row["hypothesis"])) for row in rows}
    if not texts:
        raise ValueError("no utterance")
    return [score(id, *texts[id]) for id in sorted(texts)]


def _packages(text: str) -> dict[str, str]:
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line)
