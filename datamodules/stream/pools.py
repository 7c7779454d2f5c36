"""Which stems of which tracks training examples are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datamodules.tracks.index import Track


def usable_stems(roots: Sequence[Sequence[Track]], stems: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Determine which stems of a track may be drawn in an example of several tracks.

    Files of single stems are drawn for their own stem. Of whole tracks all stems are, missing ones
    as silence; except that a stem that no track of a root has is drawn from other roots.

    Args:
        roots: Tracks of each root.
        stems: Names of the stems.

    Returns:
        Shape (tracks of all roots, stems).
    """
    by_root = []
    for tracks in roots:
        present = np.array([[stem in track.stems for stem in stems] for track in tracks])
        loose = np.array([track.is_loose for track in tracks])
        by_root.append(present | (~loose[:, None] & present.any(0)))
    usable = np.concatenate(by_root)
    nowhere = ~usable.any(0)
    whole = np.array([not track.is_loose for tracks in roots for track in tracks])
    usable[:, nowhere] |= whole[:, None]
    return usable


def segments(tracks: Sequence[Track], samples: int, stems: Sequence[str]) -> int:
    """Number of segments in tracks: of whole ones, and of the stem with most files of its own."""
    whole = sum(max(1, track.samples // samples) for track in tracks if not track.is_loose)
    loose = dict.fromkeys(stems, 0)
    for track in tracks:
        if track.is_loose:
            for stem in track.stems:
                loose[stem] += max(1, track.samples // samples)
    return whole + max(loose.values())
