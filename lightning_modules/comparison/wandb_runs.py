"""Read runs of Weights & Biases through its API, and log a comparison as a run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from matplotlib.figure import Figure

from datamodules.errors import counted
from lightning_modules.comparison.history import add_row
from lightning_modules.comparison.reading import CompareError, split_name
from lightning_modules.comparison.systems import USDR, Run
from lightning_modules.evaluation.scores import METRICS, ordered_sources
from lightning_modules.training.loggers import logged_in

PREFIX = "wandb:"
# Filter of the command line -> key in W&B's queries.
_FILTERS = {"group": "group", "sweep": "sweep", "name": "displayName"}
_CURVES = re.compile(r"val/(sdr|loss)(/\w+)?")
_STEP = "trainer/global_step"
_MAX_POINTS = 10_000


def read_wandb(given: str, subset: str) -> list[Run]:
    """Read scores of the data set, configs and training curves of runs through W&B's API.

    Args:
        given: ``[NAME=]wandb:entity/project``, with filters as in ``?group=loss&name=unet.*``:
            `group` and `sweep` are exact, `name` is a regular expression.
        subset: `test` or `val`.

    Returns:
        The runs that have scores, oldest first. A single one is named NAME, several NAME/run.

    Raises:
        CompareError: The argument is malformed, nobody is logged in, W&B cannot be reached, or no
            run has scores.
    """
    name, place = split_name(given)
    path, filters = _parsed(place)
    if not logged_in():
        raise CompareError(
            f"{place}: not logged in to Weights & Biases; run `wandb login`, or set WANDB_API_KEY"
        )
    import wandb

    try:
        found = [_run(run, f"{PREFIX}{path}", subset) for run in wandb.Api().runs(path, filters)]
    except (wandb.errors.Error, ValueError) as error:
        raise CompareError(f"{place}: {' '.join(str(error).split())}; check it") from error
    runs = [run for run in found if run.totals]
    if not runs:
        raise CompareError(
            f"{place}: found {counted(len(found), 'run')}, none with scores {subset}/sdr/...; "
            "check the filters, or give --subset"
        )
    for run in runs if name else []:
        run.name = name if len(runs) == 1 and name else f"{name}/{run.name}"
    return runs


def _parsed(place: str) -> tuple[str, dict[str, Any]]:
    """Entity and project, and the filters of W&B's query."""
    path, _, query = place.removeprefix(PREFIX).partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    unknown = [key for key, value in pairs if key not in _FILTERS or not value]
    if not re.fullmatch(r"[^/]+/[^/]+", path) or unknown or (query and not pairs):
        raise CompareError(
            f"{place}: expected wandb:entity/project, and filters as in "
            f"?{'&'.join(f'{key}=...' for key in _FILTERS)}"
        )
    return path, {
        _FILTERS[key]: {"$regex": value} if key == "name" else value for key, value in pairs
    }


def _run(found: Any, place: str, subset: str) -> Run:
    """Convert a run of W&B's API."""
    summary = {str(key): value for key, value in dict(found.summary).items()}
    totals: dict[str, dict[str, float]] = {}
    for metric in (*METRICS, USDR):
        start = f"{subset}/{metric.lower()}/"
        for key in summary:
            if key.startswith(start) and math.isfinite(value := _number(summary[key])):
                totals.setdefault(key.removeprefix(start), {})[metric] = value
    run = Run(
        found.name or found.id,
        f"{place}/{found.id}",
        totals={source: totals[source] for source in ordered_sources(totals)},
        config=dict(found.config).get("config") or {},
        notes=["from W&B's summary, without scores of tracks"],
    )
    for key in filter(_CURVES.fullmatch, summary if totals else ()):
        rows = found.history(samples=_MAX_POINTS, keys=[key], x_axis=_STEP, pandas=False)
        for row in rows:
            add_row(run.history, row, _STEP)
    return run


def _number(value: Any) -> float:
    # The API returns NaN as text.
    return float(value) if isinstance(value, (int, float)) else math.nan


def publish(
    project: str,
    tables: Mapping[str, Sequence[Mapping[str, object]]],
    figures: Mapping[str, Figure],
) -> str:
    """Log a comparison as a run of Weights & Biases, offline if nobody is logged in.

    Args:
        project: Project of the run.
        tables: Name -> rows with the same keys; empty tables are not logged.
        figures: Name -> figure.

    Returns:
        The run's URL, or its folder and the command that uploads it.

    Raises:
        CompareError: W&B cannot be reached.
    """
    offline = os.environ.get("WANDB_MODE") == "offline" or not logged_in()
    import wandb

    try:
        run = wandb.init(
            project=project,
            job_type="compare",
            mode="offline" if offline else None,
            settings=wandb.Settings(silent=offline, console="off"),
        )
    except wandb.errors.Error as error:
        raise CompareError(
            f"Weights & Biases: {' '.join(str(error).split())}; set WANDB_MODE=offline to store "
            "the run locally"
        ) from error
    run.log(
        {
            name: wandb.Table(list(rows[0]), [list(row.values()) for row in rows])
            for name, rows in tables.items()
            if rows
        }
        | {name: wandb.Image(figure) for name, figure in figures.items()}
    )
    folder = os.path.dirname(run.dir)
    where = f"{folder}; upload it with: wandb sync {folder}" if offline else str(run.url)
    run.finish()
    return where
