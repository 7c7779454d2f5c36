"""Runs of Weights & Biases: read through its API, and a comparison kept as one of them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from matplotlib.figure import Figure

from lightning_modules.comparison.history import add_row
from lightning_modules.comparison.reading import CompareError, split_name
from lightning_modules.comparison.systems import USDR, Run, ordered
from lightning_modules.evaluation.scores import METRICS
from lightning_modules.training.loggers import logged_in

PREFIX = "wandb:"
# What a filter of the command line is called in W&B's queries.
_FILTERS = {"group": "group", "sweep": "sweep", "name": "displayName"}
_CURVES = re.compile(r"val/(sdr|loss)(/\w+)?")
_STEP = "trainer/global_step"
_MOST_POINTS = 10_000


def read_wandb(given: str, subset: str) -> list[Run]:
    """Read runs through W&B's API: figures of the whole data set, configs and training curves.

    Args:
        given: ``[NAME=]wandb:entity/project``, with filters as in ``?group=loss&name=unet.*``:
            `group` and `sweep` are exact, `name` is a regular expression.
        subset: Whose figures, `test` or `val`.

    Returns:
        The runs that have such figures, the oldest first, all called NAME if there is one run,
        else NAME and their own names.

    Raises:
        CompareError: The words mean nothing, nobody is logged in, W&B cannot be asked, or no run
            has figures.
    """
    name, place = split_name(given)
    path, filters = _parsed(place)
    if not logged_in():
        raise CompareError(
            f"{place}: nobody is logged in to Weights & Biases; run `wandb login`, or set "
            "WANDB_API_KEY"
        )
    import wandb

    try:
        found = [_run(run, f"{PREFIX}{path}", subset) for run in wandb.Api().runs(path, filters)]
    except (wandb.errors.Error, ValueError) as error:
        raise CompareError(f"{place}: {' '.join(str(error).split())}; check it") from error
    runs = [run for run in found if run.figures]
    if not runs:
        raise CompareError(
            f"{place}: {len(found)} runs were found, none with figures {subset}/sdr/...; "
            "check the filters, or give --subset"
        )
    for run in runs if name else []:
        run.name = name if len(runs) == 1 and name else f"{name}/{run.name}"
    return runs


def _parsed(place: str) -> tuple[str, dict[str, Any]]:
    """Entity and project, and the filters as W&B takes them."""
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
    """What is wanted of a run of W&B's."""
    summary = {str(key): value for key, value in dict(found.summary).items()}
    figures: dict[str, dict[str, float]] = {}
    for metric in (*METRICS, USDR):
        start = f"{subset}/{metric.lower()}/"
        for key in summary:
            if key.startswith(start) and math.isfinite(value := _number(summary[key])):
                figures.setdefault(key.removeprefix(start), {})[metric] = value
    run = Run(
        found.name or found.id,
        f"{place}/{found.id}",
        figures={source: figures[source] for source in ordered(figures)},
        config=dict(found.config).get("config") or {},
        notes=["from W&B's summary: no figures of tracks"],
    )
    for key in filter(_CURVES.fullmatch, summary if figures else ()):
        rows = found.history(samples=_MOST_POINTS, keys=[key], x_axis=_STEP, pandas=False)
        for row in rows:
            add_row(run.history, row, _STEP)
    return run


def _number(value: Any) -> float:
    # NaN comes as text.
    return float(value) if isinstance(value, (int, float)) else math.nan


def publish(
    project: str,
    tables: Mapping[str, Sequence[Mapping[str, object]]],
    figures: Mapping[str, Figure],
) -> str:
    """Keep a comparison as a run of Weights & Biases, offline if nobody is logged in.

    Args:
        project: Project of the run.
        tables: Name -> rows, all with the same columns; those without rows are left out.
        figures: Name -> picture.

    Returns:
        Where it is: the run's address, or its folder and the command that sends it.

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
            f"Weights & Biases: {' '.join(str(error).split())}; set WANDB_MODE=offline to keep the "
            "run here"
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
    where = f"{folder}; send it by: wandb sync {folder}" if offline else str(run.url)
    run.finish()
    return where
