"""Which stems of which tracks training examples are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from datamodules.augmentations.base import Augmentation
from datamodules.errors import DataError
from datamodules.randomness import Position
from datamodules.stream.crops import CropSampler, SamplingConfig
from datamodules.stream.loudness import Powers
from datamodules.tracks.index import Track
from datamodules.tracks.preparation import REMAINDER


def crop_sampler(
    seed: int,
    config: SamplingConfig,
    tracks: Sequence[Track],
    root_sizes: Sequence[int],
    weights: Sequence[float],
    stems: Sequence[str],
    loudness: Sequence[Powers],
) -> CropSampler:
    """Create the sampler of training tracks.

    Args:
        seed: Seed of the examples.
        config: How tracks and starts are drawn.
        tracks: Tracks of all roots, of one sample rate.
        root_sizes: Number of tracks of each root.
        weights: Relative frequency of each root.
        stems: Names of the stems.
        loudness: Mean squares of the tracks, if ``config`` needs them.
    """
    ends = np.cumsum(root_sizes).tolist()
    return CropSampler(
        seed,
        config,
        len(stems),
        np.split(np.array([track.samples for track in tracks]), ends[:-1]),
        weights,
        loudness,
        tracks[0].sample_rate,
        usable_stems([tracks[start:end] for start, end in pairwise([0, *ends])], stems),
        np.array([not track.is_loose for track in tracks]),
    )


def usable_stems(roots: Sequence[Sequence[Track]], stems: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Determine which stems of a track may be drawn in an example of several tracks.

    Files of single stems are drawn for their own stem. Of whole tracks all stems are that are not
    unknown, missing ones as silence; except that a stem that no track of a root has is drawn from
    other roots. The remainder of a track is drawn if no track has the stems that it may contain.

    Args:
        roots: Tracks of each root.
        stems: Names of the stems.

    Returns:
        Shape (tracks of all roots, stems).
    """
    by_root = []
    for tracks in roots:
        known = known_stems(tracks, stems)
        present = np.array([[stem in track.stems for stem in stems] for track in tracks]) & known
        by_root.append((present, known & ~present))
    usable = np.concatenate([present | (silent & present.any(0)) for present, silent in by_root])
    silent = np.concatenate([silent for _, silent in by_root])
    usable |= silent & ~usable.any(0)
    if REMAINDER in stems:
        nowhere = {stem for number, stem in enumerate(stems) if not usable[:, number].any()}
        usable[:, stems.index(REMAINDER)] = [
            REMAINDER in track.stems and nowhere.issuperset(track.unknown)
            for tracks in roots
            for track in tracks
        ]
    return usable


def check_drawing(
    tracks: Sequence[Track], mix_probability: float, augmentations: Sequence[Augmentation]
) -> None:
    """Raise a ``DataError`` if settings do not suit files of single stems, or unknown stems."""
    loose = [track for track in tracks if track.is_loose]
    if mix_probability == 0 and loose:
        raise DataError(
            f"mix_probability is 0, and {loose[0].name} and {len(loose) - 1} others are files of "
            "single stems, which are used in mixed examples only; set "
            "--data.init_args.mix_probability above 0"
        )
    mixing = [type(each).__name__ for each in augmentations if each.mixes_examples]
    if mixing and any(track.unknown for track in tracks):
        raise DataError(
            f"{mixing[0]} exchanges stems between examples, which missing_as_unknown does not "
            "allow, as it is not known which stems are missing after that; remove it from "
            "augmentations: mix_probability mixes tracks, too"
        )


def known_stems(tracks: Sequence[Track], stems: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which stems of tracks are known, shape (tracks, stems); the remainder never is."""
    return np.array(
        [
            [
                stem != REMAINDER
                and stem not in track.unknown
                and (stem in track.stems or not track.is_loose)
                for stem in stems
            ]
            for track in tracks
        ]
    )


def known_in_examples(
    sampler: CropSampler,
    known: npt.NDArray[np.bool_],
    positions: Sequence[Position],
) -> npt.NDArray[np.bool_]:
    """Which stems of examples are known.

    Args:
        sampler: Draws the tracks of the examples.
        known: Which stems of tracks are known, shape (tracks, stems).
        positions: Epoch and index of each example.

    Returns:
        Shape (B, stems).
    """
    tracks = np.stack([sampler.tracks(position) for position in positions])
    return known[tracks, np.arange(known.shape[1])] & (tracks >= 0)


def segments(tracks: Sequence[Track], samples: int, stems: Sequence[str]) -> int:
    """Number of segments in tracks: of whole ones, and of the stem with most files of its own."""
    whole = sum(max(1, track.samples // samples) for track in tracks if not track.is_loose)
    loose = dict.fromkeys(stems, 0)
    for track in tracks:
        if track.is_loose:
            for stem in track.stems:
                loose[stem] += max(1, track.samples // samples)
    return whole + max(loose.values())
