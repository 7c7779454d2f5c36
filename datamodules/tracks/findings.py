"""Findings: what is wrong with a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.errors import DataError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A finding about the user's data.

    Attributes:
        severity: ``error`` stops training, ``warning`` should be checked, ``note`` may be intended.
        name: Kind of finding, such as ``unlike-length``.
        where: The file or folder.
        finding: What was found, and what was expected.
        remedy: What to do.
    """

    severity: Severity
    name: str
    where: str
    finding: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.finding}; {self.remedy}"

    @staticmethod
    def of(fault: DataError, path: Path, name: str = "unreadable") -> Finding:
        """Convert an error with the message "path: what was found; what to do"."""
        finding, _, remedy = str(fault).removeprefix(f"{path}: ").partition("; ")
        return Finding("error", name, str(path), finding, remedy)
