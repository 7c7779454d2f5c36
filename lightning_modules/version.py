"""Version of this package, and the commit that it was built from."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


@cache
def version() -> str:
    """Version and commit, such as ``0.2.0 (commit 1a2b3c4)``; ``-dirty`` marks changed files."""
    number = "of an unknown version"
    with suppress(metadata.PackageNotFoundError):
        number = metadata.version("stemlab")
    found = commit()
    return f"{number} (commit {found})" if found else number


def commit() -> str:
    """Commit of the checkout, or that which ``setup.py`` has written into the wheel, or empty."""
    if not (_ROOT / ".git").exists():
        written = Path(__file__).with_name("commit.txt")
        return written.read_text().strip() if written.is_file() else ""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return ""
