"""The doctor's report as text: a table of tracks, findings with remedies, and a verdict."""

from __future__ import annotations

import math

from datamodules.doctor.diagnosis import channel_names
from datamodules.doctor.measurements import FileMeasures
from datamodules.doctor.report import SEVERITIES, Report, TrackReport
from datamodules.tables import format_table
from datamodules.tracks.layouts import MIXTURE

_MOST_SHOWN = 10  # findings of one kind
_NAME_WIDTH = 36
_VERDICTS = ("ready for training", "check the warnings", "not ready for training")


def format_report(report: Report) -> str:
    """Format a report as lines of text."""
    lines = [_track_table(report)]
    for severity, name in dict.fromkeys((each.severity, each.name) for each in report.findings):
        group = [each for each in report.findings if (each.severity, each.name) == (severity, name)]
        shown = group[:_MOST_SHOWN]
        lines += ["", f"{severity}: {name} ({len(group)})"]
        lines += [f"  {_relative(each.where, report.root)}: {each.finding}" for each in shown]
        if len(group) > len(shown):
            lines.append(f"  ... and {len(group) - len(shown)} more (--json has all)")
        lines += [f"  -> {remedy}" for remedy in dict.fromkeys(each.remedy for each in shown)]
    counts = [
        f"{count} {severity}{'s' * (count != 1)}"
        for severity in reversed(SEVERITIES)
        if (count := sum(each.severity == severity for each in report.findings))
    ]
    minutes = sum(track.seconds or 0 for track in report.tracks) / 60
    verdict = (
        f"{report.root}: {report.counted}, {minutes:.1f} minutes; "
        f"{', '.join(counts) or 'nothing found'}: {_VERDICTS[report.exit_code]}"
    )
    return "\n".join([*lines, "", verdict])


def _track_table(report: Report) -> str:
    """One row per track: length, RMS of each file, error of the mixture in each channel."""
    names = [*report.stems, MIXTURE]
    channels = channel_names(max((track.channels or 0 for track in report.tracks), default=0))
    header, rows = ["", "length"], [[t.label(_NAME_WIDTH), _length(t)] for t in report.tracks]
    if not any(track.files for track in report.tracks):
        return format_table(header, rows)
    header += [f"{name}\ndBFS" for name in names] + [f"{name}\nerror, dB" for name in channels]
    for row, track in zip(rows, report.tracks, strict=True):
        errors = track.mixture.error_db if track.mixture else ()
        row += [_level(track.files.get(name)) for name in names]
        row += ["exact" if error == -math.inf else f"{error:.1f}" for error in errors]
        row += [""] * (len(header) - len(row))
    legend = "RMS of each file; error: mixture minus the sum of its stems, relative to the mixture."
    return "\n".join([format_table(header, rows), legend])


def _length(track: TrackReport) -> str:
    if track.seconds is None:
        return "?"
    return f"{int(track.seconds // 60)}:{track.seconds % 60:04.1f}"


def _level(file: FileMeasures | None) -> str:
    if file is None:
        return "-"
    return "silent" if file.is_silent else f"{file.rms_db:.1f}"


def _relative(where: str, root: str) -> str:
    return where.removeprefix(root).lstrip("/") or root
