"""Comparisons as CSV and JSON: scores in dB; missing ones are empty fields or null."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

from lightning_modules.comparison.pairs import Pair
from lightning_modules.comparison.systems import System, headline


def statistics_rows(systems: Sequence[System], metric: str, source: str) -> list[dict[str, object]]:
    """Statistics over tracks of the systems that have this metric, a row per system."""
    rows: list[dict[str, object]] = []
    for system in systems:
        found = system.spread(metric, source)
        if not math.isfinite(headline(metric, found)):
            continue
        low, high = system.interval(metric, source)
        skipped, frames = system.frames(source)
        rows.append(
            {
                "system": system.name,
                "bound": int(system.bound),
                "source": source,
                "metric": metric,
                "median": found.median,
                "interval_low": low,
                "interval_high": high,
                "lower_quartile": found.lower,
                "upper_quartile": found.upper,
                "mean": found.mean,
                "seeds": len(system.runs),
                "seed_deviation": system.seed_deviation(metric, source),
                "tracks": found.tracks,
                "skipped_frames": skipped,
                "frames": frames,
            }
        )
    return rows


def pair_rows(pairs: Sequence[Pair]) -> list[dict[str, object]]:
    """Paired differences in dB, a row per pair."""
    return [
        {
            "source": pair.source,
            "metric": pair.metric,
            "first": pair.first,
            "second": pair.second,
            "median_difference": pair.difference.median,
            "interval_low": pair.difference.low,
            "interval_high": pair.difference.high,
            "first_ahead": pair.difference.better,
            "tracks": pair.difference.tracks,
            "p": pair.difference.p,
            "p_corrected": pair.corrected_p,
        }
        for pair in pairs
    ]


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows with the same keys as CSV with a header; empty without rows."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_field(value) for value in row.values()] for row in rows)
    return text.getvalue()


def as_json(**parts: Sequence[Mapping[str, object]] | Sequence[str]) -> str:
    """Format named lists of rows or lines as JSON."""

    def plain(value: object) -> object:
        if isinstance(value, Mapping):
            return {name: plain(each) for name, each in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = {name: [plain(each) for each in part] for name, part in parts.items()}
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _field(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
