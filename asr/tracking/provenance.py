"""Identify the code of a run: the commit, what differs from it, and the versions of all packages."""

import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from asr.errors import first_line


class CodeVersion(NamedTuple):
    """A commit, or "none: REASON" without one; whether files differ from it; and their diff, below untracked names."""

    commit: str
    dirty: bool
    diff: str


def code_version(folder: str | Path) -> CodeVersion:
    """Return the commit of the repository around a folder, and what differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=60, errors="replace").stdout

    try:
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "--no-ext-diff", "--no-color", "HEAD")
        untracked = git("ls-files", "--others", "--exclude-standard", "--full-name", ":/").splitlines()
    except (OSError, subprocess.SubprocessError) as error:  # no git, no repository, no commit yet
        return CodeVersion(f"none: {first_line(getattr(error, 'stderr', None) or error)}", False, "")
    return CodeVersion(commit, bool(diff or untracked), "".join(f"untracked: {path}\n" for path in untracked) + diff)


@cache
def package_versions() -> dict[str, str]:
    """Return the version of each installed package by name, python's first."""
    packages = sorted({(package.name, package.version) for package in distributions()}, key=str)
    return {"python": sys.version.split()[0], **dict(packages)}
