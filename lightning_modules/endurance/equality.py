"""Bit by bit comparison of a run with another of the same settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import counted
from lightning_modules.checkpoints.files import BEST, LAST, PREVIOUS
from lightning_modules.checkpoints.loading import read_checkpoint
from lightning_modules.endurance.markers import START, record_file

# Lightning counts the steps of an epoch differently in a resumed run, and never uses the count.
_STEP_COUNT = "epoch_loop.automatic_optimization.optim_progress"


_TIMES = ("scoring_seconds", "scoring_share")


def run_difference(run: Path, reference: Path, ranks: int) -> str | None:
    """Describe the first difference between two runs that have ended, or None.

    Equal must be: the names of the checkpoints and all that is in them (weights, averaged weights,
    state of optimiser and schedulers, position in the data, metrics), the scores of each track, and
    the records of each batch and validation, also of those that the run had to repeat.
    """
    for differences in (
        _checkpoint_differences(run / "checkpoints", reference / "checkpoints"),
        _score_differences(run / "scores", reference / "scores"),
        *(_record_differences(run, reference, rank) for rank in range(ranks)),
    ):
        for difference in differences:
            return difference
    return None


def _checkpoint_differences(folder: Path, reference: Path) -> Iterator[str]:
    names, expected = (sorted(path.name for path in each.iterdir()) for each in (folder, reference))
    if names != expected:
        yield f"the files in checkpoints/ are {names}, expected {expected}"
    best, expected_best = ((each / BEST).resolve().name for each in (folder, reference))
    if best != expected_best:
        yield f"{BEST} is {best}, expected {expected_best}"
    for name in expected:
        # Which state was saved before the last one depends on the signals.
        if name not in (BEST, PREVIOUS) and (
            found := difference(
                checkpoint_contents(folder / name), checkpoint_contents(reference / name)
            )
        ):
            yield f"checkpoints/{name}: {found}"


def checkpoint_contents(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint without measured times and paths of the run's directory."""
    contents = read_checkpoint(path)
    metrics = contents["exact_resume"]["metrics"]
    contents["exact_resume"]["metrics"] = {
        name: value for name, value in metrics.items() if not name.endswith(_TIMES)
    }
    for progress in contents["loops"]["fit_loop"][_STEP_COUNT]["optimizer"].values():
        progress.pop("current", None)
    for name, state in contents["callbacks"].items():
        if name.startswith("Checkpoints"):
            # A kill between best and last leaves a run that has not written a last one yet.
            del state["last_model_path"]
            for key in [key for key in state if "path" in key]:
                state[key] = Path(state[key]).name
            best = state["best_k_models"].items()
            state["best_k_models"] = {Path(path).name: value for path, value in best}
    return contents


def batches_lost(run: Path) -> int:
    """Number of batches that rank 0 trained on and that ``last.ckpt`` does not know of.

    Counted in the last start: one before it may have been killed after more batches.
    """
    loop = read_checkpoint(run / "checkpoints" / LAST)["loops"]["fit_loop"]
    *_, (_, trained, *_) = _lines(run, 0)
    return int(trained - loop["epoch_loop.batch_progress"]["total"]["processed"])


def difference(ours: Any, theirs: Any, place: str = "") -> str | None:
    """Describe the first difference between two nested states, to the bit, or None."""
    if type(ours) is not type(theirs):
        return f"{place}: {type(ours).__name__}, expected {type(theirs).__name__}"
    if isinstance(ours, Tensor):
        return None if _same_tensor(ours, theirs) else f"{place}: other values"
    if isinstance(ours, Mapping):
        if list(ours) != list(theirs):
            return f"{place}: keys {list(ours)}, expected {list(theirs)}"
        pairs = [(ours[key], theirs[key], f"{place}/{key}") for key in ours]
    elif isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return f"{place}: {counted(len(ours), 'entry', 'entries')}, expected {len(theirs)}"
        pairs = [
            (one, other, f"{place}/{number}")
            for number, (one, other) in enumerate(zip(ours, theirs, strict=True))
        ]
    else:
        both_nan = isinstance(ours, float) and math.isnan(ours) and math.isnan(theirs)
        return None if both_nan or ours == theirs else f"{place}: {ours!r}, expected {theirs!r}"
    return next((found for pair in pairs if (found := difference(*pair))), None)


def _same_tensor(ours: Tensor, theirs: Tensor) -> bool:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    # Bytes: NaN equals itself, and -0.0 is not 0.0.
    return torch.equal(
        *(each.contiguous().reshape(-1).view(torch.uint8) for each in (ours, theirs))
    )


def _score_differences(folder: Path, reference: Path) -> Iterator[str]:
    names, expected = (
        sorted(path.relative_to(each) for path in each.rglob("*.json"))
        for each in (folder, reference)
    )
    if names != expected:
        yield f"the files in scores/ are {names}, expected {expected}"
    for name in expected:
        if (folder / name).read_bytes() != (reference / name).read_bytes():
            yield f"scores/{name}: other scores"


def _record_differences(run: Path, reference: Path, rank: int) -> Iterator[str]:
    expected = {(kind, batches): values for kind, batches, *values in _records(reference, rank)}
    missing = set(expected)
    for kind, batches, *values in _records(run, rank):
        missing.discard((kind, batches))
        if values != expected.get((kind, batches)):
            yield (
                f"rank {rank}, {kind} after {counted(batches, 'batch', 'batches')}: {values}, "
                f"expected {expected.get((kind, batches))}"
            )
    if missing:
        yield f"rank {rank}: no record of {sorted(missing)}"


def _records(run: Path, rank: int) -> Iterator[list[Any]]:
    """Records of batches and validations."""
    return (line for line in _lines(run, rank) if line[0] != START)


def _lines(run: Path, rank: int) -> Iterator[list[Any]]:
    for line in record_file(run, rank).read_text().splitlines():
        yield json.loads(line)
