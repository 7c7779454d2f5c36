"""Split of a data set's training tracks into training and validation tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError, counted
from datamodules.files.names import key, match
from datamodules.tracks.index import Track

# The validation split of musdb's own configuration (its configs/mus.yaml).
MUSDB_VALIDATION_TRACKS = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
    "Skelpolu - Human Mistakes",
    "Young Griffo - Pennies",
    "ANiMAL - Rockshow",
    "James May - On The Line",
    "Meaxic - Take A Step",
    "Traffic Experiment - Sirens",
)


class Split(NamedTuple):
    """Training tracks, validation tracks, and a sentence that says how they were chosen."""

    train: list[Track]
    valid: list[Track]
    rule: str


def split_validation(
    tracks: Sequence[Track],
    names: Sequence[str] = MUSDB_VALIDATION_TRACKS,
    fraction: float = 0.14,
    *,
    required: bool = False,
) -> Split:
    """Split the training subset into training tracks and validation tracks.

    Args:
        tracks: Tracks of the training subset.
        names: Names of the validation tracks, without letter case and Unicode form; those that
            exist are used.
        fraction: If none of the names exists, this fraction of the tracks is used for validation,
            at evenly spaced positions in the sorted list: at least one track, never all.
        required: Raise an error if a name does not exist or there are no names, instead of using
            the fraction.

    Returns:
        Both lists, sorted by name, and the rule that was used.

    Raises:
        DataError: No track is left for training or for validation, or a required one is missing.
    """
    tracks = sorted(tracks, key=lambda track: track.name)
    present = [track.name for track in tracks]
    found = match(names, present)
    missing = [name for name in names if name not in found]
    if required and (missing or not names):
        fault = f"lists unknown tracks ({', '.join(map(repr, missing))})" if missing else "is empty"
        raise DataError(
            f"validation_tracks {fault}; training tracks are for example "
            f"{', '.join(map(repr, present[:3]))}; correct validation_tracks, or remove it "
            "for the default split"
        )
    chosen = set(found.values())
    if chosen:
        rule = f"validation: {len(chosen)} of the {len(names)} named tracks"
    else:
        if len(tracks) < 2:
            raise DataError(
                f"no track is left for validation: training tracks found: {len(tracks)}, "
                "expected at least 2; add a track"
            )
        count = min(max(1, round(fraction * len(tracks))), len(tracks) - 1)
        step = len(tracks) / count
        chosen = {tracks[int((number + 0.5) * step)].name for number in range(count)}
        rule = (
            f"none of the {len(names)} official validation tracks exists: validation on {count} of "
            f"{len(tracks)} tracks, evenly spaced in the list sorted by name"
        )
    train = [track for track in tracks if track.name not in chosen]
    if not train:
        raise DataError(
            f"no track is left for training: validation uses {counted(len(tracks), 'track')}, "
            "which is all; add tracks, or list fewer in validation_tracks"
        )
    return Split(train, [track for track in tracks if track.name in chosen], rule)


def split_by_folder(train: Sequence[Track], valid: Sequence[Track], folder: Path) -> Split:
    """Validate on the tracks of a validation subset.

    Args:
        train: Tracks of the training subset; those with the name of a validation track are left
            out.
        valid: Tracks of the validation subset.
        folder: The folder of the validation subset, for messages.

    Raises:
        DataError: No track is left for training.
    """
    kept = without_names(train, [track.name for track in valid])
    if not kept:
        raise DataError(
            f"no track is left for training: all {len(train)} have the names of tracks in "
            f"{folder}; remove them there, or set validation_tracks"
        )
    left_out = len(train) - len(kept)
    rule = f"validation: the tracks in {folder.name}" + (
        f"; {counted(left_out, 'training track')} with the same name left out" if left_out else ""
    )
    return Split(kept, list(valid), rule)


def without_names(
    tracks: Sequence[Track],
    others: Iterable[str],
    as_key: Callable[[str], str] = key,
) -> list[Track]:
    """The tracks whose names differ from other names.

    Args:
        tracks: The tracks.
        others: The names.
        as_key: Names with an equal result are the same; by default those that differ only in
            letter case or Unicode form.
    """
    names = {as_key(name) for name in others}
    return [track for track in tracks if as_key(track.name) not in names]
