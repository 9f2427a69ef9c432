"""What code a run is of: the commit, what differs from it, and the versions of all packages."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from asr.errors import first_line


class CodeVersion(NamedTuple):
    commit: str  # or "none: REASON" where git knows of none
    dirty: bool
    diff: str  # untracked files are named above it


def code_version(folder: str | Path) -> CodeVersion:
    """The commit of the repository around folder, and what differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=60, errors="replace").stdout

    try:
        commit, diff = git("rev-parse", "HEAD").strip(), git("diff", "--no-ext-diff", "--no-color", "HEAD")
        untracked = git("ls-files", "--others", "--exclude-standard", "--full-name", ":/").splitlines()
    except (OSError, subprocess.SubprocessError) as error:  # no git, no repository, no commit yet
        return CodeVersion(f"none: {first_line(getattr(error, 'stderr', None) or error)}", False, "")
    return CodeVersion(commit, bool(diff or untracked), "".join(f"untracked: {path}\n" for path in untracked) + diff)


def package_versions() -> dict[str, str]:
    """Every installed package, after python itself."""
    packages = sorted({(package.name, package.version) for package in distributions()}, key=str)
    return {"python": sys.version.split()[0], **dict(packages)}
