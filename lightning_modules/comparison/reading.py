"""Read run directories and folders of museval JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from datamodules.files.names import pair
from lightning_modules.comparison.history import read_history
from lightning_modules.comparison.systems import Run
from lightning_modules.configuration.files import ConfigError, read_config
from lightning_modules.evaluation.score_files import read_folder


class CompareError(ValueError):
    """Something cannot be compared; the message names it, the problem and the remedy."""


def split_name(given: str) -> tuple[str | None, str]:
    """Split ``NAME=PATH`` into name and path; the name is None if there is none.

    An argument that exists as a path has no name.
    """
    match = re.fullmatch(r"([^=/:?]+)=(.+)", given)
    if match is None or Path(given).exists():
        return None, given
    return match[1], match[2]


def read_run(given: str, subset: str) -> Run:
    """Read a run's directory, or a folder of score files in museval's JSON.

    Args:
        given: The folder, or ``NAME=FOLDER``. It contains the files directly, in ``<subset>/`` as
            museval's stores do, or in ``scores/`` as a run does.
        subset: `test` or `val`, if there are several.

    Returns:
        The run.

    Raises:
        CompareError: The folder does not exist or contains no scores.
        ValueError: A score file or the run's config is corrupted; the message names it.
    """
    name, place = split_name(given)
    folder = Path(place)
    if not folder.is_dir():
        expected = "a run's directory or a folder of museval JSON files"
        raise CompareError(f"{place}: is not a folder; expected {expected}")
    scores, notes = _find_scores(folder, subset)
    run = Run(name or folder.resolve().name, place, read_folder(scores), notes=notes)
    if not run.sources:
        raise CompareError(f"{scores}: its score files contain no source; score the system again")
    method = scores if scores == folder else scores.parent
    for beside in (method / "mixture", method.parent / "mixture"):
        if beside != method and _has_scores(beside / subset):
            run.mixture = read_folder(beside / subset)
            break
    config = folder / "config.yaml"
    if (folder / "scores").is_dir() and config.is_file():
        try:
            run.config = read_config(config)
        except ConfigError as error:
            raise CompareError(str(error)) from error
        run.history = read_history(folder)
    return run


def _find_scores(folder: Path, subset: str) -> tuple[Path, list[str]]:
    """Folder of the score files, and notes on the choice."""
    for scores in (folder / "scores" / "estimate" / subset, folder / subset, folder):
        if _has_scores(scores):
            return scores, []
    validations = filter(_has_scores, folder.glob(f"scores/epoch_*/{subset}"))
    if last := max(validations, default=None):
        return last, [f"scores of its last validation, {last.parent.name}"]
    # At most three levels down, because a mistaken path may be a whole disk.
    levels = (folder.glob(f"{'*/' * depth}*.json") for depth in (1, 2, 3))
    found = sorted({str(path.parent.relative_to(folder)) for path in chain(*levels)})
    raise CompareError(
        f"{folder}: contains no {subset} scores (*.json, {subset}/*.json or "
        f"scores/estimate/{subset}/*.json); "
        + (
            f"{', '.join(found[:6])}{' and others' if len(found) > 6 else ''} contain scores: "
            "give such a folder, or --subset"
            if found
            else "score the system first, a run by `test`"
        )
    )


def _has_scores(folder: Path) -> bool:
    return any(folder.glob("*.json"))


def unify_track_names(runs: Sequence[Run]) -> None:
    """Give each track the name that it has in the first run.

    Letter case and Unicode form of names may differ, because file systems change them.
    """
    known: list[str] = []
    for run in runs:
        for tracks in (run.tracks, run.mixture):
            names = pair([track.name for track in tracks], known)
            for track in tracks:
                track.name = names.get(track.name, track.name)
        known += {track.name for track in (*run.tracks, *run.mixture)} - set(known)


def disambiguate_names(runs: Sequence[Run]) -> None:
    """Extend equal names of runs by more of their paths.

    Raises:
        CompareError: The same path or name was given twice.
    """
    for depth in (2, 3):
        names = [run.name for run in runs]
        for run in runs:
            if names.count(run.name) > 1:
                run.name = "/".join(Path(run.path).resolve().parts[-depth:])
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise CompareError(
                f"{run.path}: {run.name!r} is given twice; remove one, or name each by NAME=FOLDER"
            )
