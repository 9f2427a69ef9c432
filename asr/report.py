"""python -m asr.report: compare the runs in MLflow, in one page and in Markdown.

python -m asr.report
python -m asr.report tracking.experiment=mine output_dir=outputs/report_mine
python -m asr.report claims=mine          # verdicts on the claims of conf/claims/mine.yaml
"""

import os
import shlex
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from asr.cli import entry_point
from asr.console import console
from asr.errors import InputError
from asr.reporting.claims import Claims, check_parts, read_claims
from asr.reporting.groups import group_runs
from asr.reporting.intervals import Resampling, resampled
from asr.reporting.media import augmentation, curves, rates
from asr.reporting.page import write_report
from asr.reporting.published import published
from asr.reporting.runs import KIND_TAG, LeftOut, RunStore, StoredRun
from asr.reporting.verdicts import FAILED_RATE, judge
from asr.settings import GROUP, STRING, Rules, check, whole
from asr.tracking.run import Description, Destination, open_run, own_directory

RULES: Rules = {
    "claims": GROUP,
    "tracking": GROUP,
    "tracking.uri": STRING.or_null,
    "tracking.experiment": STRING,
    "output_dir": STRING,
    "bootstrap_samples": whole(1),
    "seed": whole(0),
}
PACKAGES = ("python", "torch", "torchaudio", "lhotse", "audiomentations", "hydra-core", "mlflow", "jiwer", "numpy")


@entry_point("report")
def main(config: DictConfig) -> None:
    """Write the report, log it, and print where it is."""
    overrides = list(HydraConfig.get().overrides.task)
    paths = run(config, shlex.join(["python", "-m", "asr.report", *overrides]))
    console.print(f"Report: {os.path.relpath(paths[0])}\nAs Markdown: {os.path.relpath(paths[1])}", soft_wrap=True)


def run(config: DictConfig, command: str = "python -m asr.report") -> list[Path]:
    """Write the report and return its files, index.html and report.md first; InputError if no run can be read."""
    check(config, RULES)
    claims = read_claims(config.claims)
    settings = config.tracking
    store = RunStore(settings.uri, settings.experiment)
    runs, left_out = store.read()
    if not runs and not left_out:
        raise InputError(
            f"experiment {settings.experiment!r} at {settings.uri} holds no training run; name another by "
            "tracking.experiment=NAME, or make runs first: "
            "python -m asr.train sweep=writeup scale=mini data.root=outputs/corpora/synthetic"
        )
    check_parts(claims, sorted({*published()["librispeech"], *(part for one in runs for part in one.scored)}))
    resampling = Resampling(config.bootstrap_samples, config.seed)
    content = gather(claims, runs, left_out, resampling, command)
    folder = Path(config.output_dir)
    for old in [*folder.glob("pictures/*"), *folder.glob("sounds/*")]:  # of an earlier report
        old.unlink()
    content |= {
        "curves": curves(claims, content["groups"], folder),
        "rates": rates(claims, content["groups"], folder),
        "augmentation": augmentation(store, runs, folder),
    }
    paths = write_report(content, folder)
    settings_only = OmegaConf.masked_copy(config, [str(key) for key in config if key != "claims"])
    plain: dict[str, Any] = OmegaConf.to_container(settings_only, resolve=True)  # type: ignore[assignment]
    description = Description("report", config=plain, tags={KIND_TAG: "report"})
    own = own_directory(config.output_dir)  # each call is a run of its own
    with open_run(own, Destination(settings.uri, settings.experiment), description) as tracked:
        tracked.log_text(OmegaConf.to_yaml(config.claims), "claims.yaml")
        for path in paths:
            tracked.log_file(path, "" if path.parent == folder else path.parent.name)
    return paths


def gather(
    claims: Claims, runs: list[StoredRun], left_out: list[LeftOut], resampling: Resampling, command: str
) -> dict[str, Any]:
    """Return everything that the template shows, but for pictures and sounds."""
    groups, others = group_runs(runs, claims.known)
    all_runs = [run for group in groups for run in group.runs.values()] + others
    judged = [(group, judge(claims, group, resampling)) for group in groups]
    return {
        "claims": claims,
        "groups": groups,
        "judged": judged,
        "tested": [
            (group, by_claim) for group, by_claim in judged if any(a.is_tested for a in chain(*by_claim.values()))
        ],
        "others": others,
        "left_out": left_out,
        "all_runs": all_runs,
        "versions": {name: Counter(run.packages.get(name, "not installed") for run in all_runs) for name in PACKAGES},
        "resampling": resampling,
        "command": command,
        "resampled": resampled,
        "failed": f"{100 * FAILED_RATE:.0f} %",
        "published": published(),
    }


if __name__ == "__main__":
    main()
