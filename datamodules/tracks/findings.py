"""Findings: what is wrong with a data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.errors import DataError
from datamodules.parallel import raise_faults

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
        """Convert an error, with the message "path: what was found; what to do", to a finding."""
        finding, _, remedy = str(fault).removeprefix(f"{path}: ").partition("; ")
        return Finding("error", name, str(path), finding, remedy)


def summarise(findings: Iterable[Finding]) -> list[str]:
    """One line for each kind of finding: the first one, and how many others there are."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.name), []).append(finding)
    return [
        f"{severity}: {group[0]}" + (f" ({len(group) - 1} more of this kind)" * (len(group) > 1))
        for (severity, _), group in groups.items()
    ]


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise one ``DataError`` for all findings that are errors, if there are any."""
    raise_faults([str(finding) for finding in findings if finding.severity == "error"])
