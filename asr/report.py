"""python -m asr.report: compares the runs in MLflow, in one page and in Markdown.

python -m asr.report
python -m asr.report tracking.experiment=mine output_dir=outputs/report_mine
"""

import os
import shlex
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from asr.cli import entry_point
from asr.console import console
from asr.errors import InputError
from asr.reporting.analysis import Resampling
from asr.reporting.groups import group_runs
from asr.reporting.page import Section, write_report
from asr.reporting.pictures import augmentation, curves, rates
from asr.reporting.tables import commands_and_versions, cost, examples, opening, results, what_was_run
from asr.reporting.tracked import KIND_TAG, LeftOut, RunStore, StoredRun
from asr.reporting.verdicts import answer_all, findings_and_hypotheses, overview
from asr.settings import GROUP, TEXT, WHOLE_FROM_0, WHOLE_FROM_1, check
from asr.tracking.run import Description, Destination, open_run

TITLE = "Recurrent CTC recognisers: what was run and what it shows"


@entry_point("report")
def main(config: DictConfig) -> None:
    """Writes the report, logs it, and says where it is."""
    overrides = list(HydraConfig.get().overrides.task)
    paths = run(config, shlex.join(["python", "-m", "asr.report", *overrides]))
    console.print(f"Report: {os.path.relpath(paths[0])}\nAs Markdown: {os.path.relpath(paths[1])}", soft_wrap=True)


def run(config: DictConfig, command: str = "python -m asr.report") -> list[Path]:
    """The files that were written, index.html and report.md first; InputError if there is no run to report on."""
    texts = "tracking.uri? tracking.experiment output_dir"
    check(config, {GROUP: "tracking", TEXT: texts, WHOLE_FROM_1: "bootstrap_samples", WHOLE_FROM_0: "seed"})
    settings = config.tracking
    store = RunStore(settings.uri, settings.experiment)
    runs, left_out = store.read()
    if not runs and not left_out:
        raise InputError(
            f"experiment {settings.experiment!r} at {settings.uri} holds no training run; name another by "
            "tracking.experiment=NAME, or make runs first: "
            "python -m asr.train sweep=writeup scale=mini data.root=outputs/corpora/synthetic"
        )
    sections = compose_report(store, runs, left_out, Resampling(config.bootstrap_samples, config.seed), command)
    paths = write_report(TITLE, sections, Path(config.output_dir))
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    description = Description("report", config=plain, tags={KIND_TAG: "report"})
    with open_run(None, Destination(settings.uri, settings.experiment), description) as tracked:
        for path in paths:
            folder = path.parent.relative_to(config.output_dir).as_posix()
            tracked.log_file(path, "" if folder == "." else folder)
    return paths


def compose_report(
    store: RunStore, runs: list[StoredRun], left_out: list[LeftOut], resampling: Resampling, command: str
) -> list[Section]:
    """Everything that the report says, in its order."""
    groups, others = group_runs(runs)
    answered = [answer_all(group, resampling) for group in groups]
    return [
        Section("What was run", [*opening(groups), *overview(groups, answered), *what_was_run(groups, left_out)]),
        results(groups, others, resampling),
        findings_and_hypotheses(groups, answered),
        curves(groups),
        rates(groups),
        cost(groups),
        augmentation(store, runs),
        examples(groups),
        commands_and_versions(groups, others, command),
    ]


if __name__ == "__main__":
    main()
