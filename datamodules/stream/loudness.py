"""How loud each second of each stem is, and starts of crops that are drawn by it.

The table is measured once and kept in the cache. A crop's level is taken from it: seconds
that a crop cuts count by the part that lies in the crop, as if their level were even.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from datamodules.cache.folder import cache_folder
from datamodules.errors import DataError
from datamodules.files.mapped_wav import MappedFile
from datamodules.files.write_crop import write_crop
from datamodules.parallel import for_each
from datamodules.tracks.index import Track

Powers = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]

# Below this all is equally silent when loudness classes are formed, dBFS.
SILENT_DB = -60.0
# Stems whose places are remembered: some 10 kB each, found again in microseconds.
_REMEMBERED = 4096


# -------------------------------------------------------------------- table


def measure_loudness(tracks: Sequence[Track], stems: Sequence[str], progress: bool) -> list[Powers]:
    """Measure tracks, or take their loudness from the cache.

    A track is measured again when one of its files has another size or time of change. What
    cannot be mapped must have been decoded before.

    Args:
        tracks: The tracks.
        stems: Names of the stems; one that a track does not have is silent.
        progress: Show a progress bar for what takes more than a second.

    Returns:
        For each track the mean square of each second, of all channels together; full scale
        is 1, the last second may be a short one. Shape (stems, seconds).

    Raises:
        DataError: A file is gone, or the cache cannot be written.
    """
    folder = cache_folder() / "loudness"

    def measure_one(track: Track) -> Powers:
        place = folder / f"{_identity(track, stems)}.npy"
        powers = _load(place)
        if powers is None:
            powers = _measure(track, stems)
            _keep(place, powers)
        return powers

    return for_each(measure_one, tracks, "measuring loudness", progress)


def _identity(track: Track, stems: Sequence[str]) -> str:
    facts: list[Any] = [track.sample_rate]
    for stem in stems:
        file = track.stems.get(stem)
        if file is None:
            facts.append(None)
            continue
        status = os.stat(file)
        facts.append([os.path.abspath(file), status.st_ino, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _load(place: Path) -> Powers | None:
    try:
        powers: Powers = np.load(place)
    except (OSError, ValueError, EOFError):  # not there, or spoilt: it is measured
        return None
    return powers


def _measure(track: Track, stems: Sequence[str]) -> Powers:
    seconds = -(-track.samples // track.sample_rate)
    powers = np.zeros((len(stems), seconds), np.float32)
    for row, stem in zip(powers, stems, strict=True):
        if stem in track.stems:
            file = MappedFile(track.stems[stem])
            for second in range(seconds):
                row[second] = _power(file, second * track.sample_rate, track.sample_rate)
    return powers


def _keep(place: Path, powers: Powers) -> None:
    """Write a table; only a whole one gets its lasting name, whoever else writes it too."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=place.parent) as partial:
            np.save(Path(partial, place.name), powers)
            os.replace(Path(partial, place.name), place)
    except OSError as error:
        raise DataError(
            f"{place.parent}: the loudness of the tracks cannot be kept here ({error}); a "
            "writable folder was expected; set STEMLAB_CACHE to one"
        ) from error


def _power(file: MappedFile, start: int, samples: int) -> float:
    source = file.crop(start, samples)
    heard = torch.empty(source.shape[1], len(source))
    write_crop(source, heard)
    values = heard.numpy().reshape(-1)
    return float(np.einsum("t,t->", values, values)) / max(1, values.size)


# ------------------------------------------------------------------- starts


class _Place(NamedTuple):
    """The second of a track in which starts lie.

    Attributes:
        begins: Where the places' shares of the chances begin, shape (places,).
        chances: How probable each is, shape (places,).
        starts: Number of starts in it, shape (places,).
    """

    begins: _Floats
    chances: _Floats
    starts: npt.NDArray[np.int64]


class LoudnessSampler:
    """Draws the starts of crops by how loud the crops are.

    *Silence.* A crop whose root mean square is below a level is drawn again, up to a number of
    tries; the last one counts. A stem that is silent throughout keeps its first draw.
    Examples from one place of one track are silent if the squares of their stems add up to
    less than that level.

    *Loudness classes.* The levels in dB of the crops that a stem of a track has, from its
    quietest (not below -60 dBFS) to its loudest, are cut into classes of equal width; each
    class that holds any crop is drawn as often as any other, and in a class each start is.
    So a chorus and a fade-out are met equally often however long they last. Crops that start
    in the same second of the track count as equally loud. (The definition is this project's;
    one class alone makes all starts equally probable.)

    Dropping what is silent is common practice; see Luo and Yu 2023, "Music Source Separation
    with Band-split RNN", whose detector of active passages does it beforehand.

    Args:
        powers: Of each track, mean square of each second; shape (stems, seconds).
        lengths: Length of each track in samples.
        sample_rate: Sample rate, Hz.
        avoid_silence_db: The level, dBFS; by default silence is not avoided.
        classes: Number of loudness classes.
    """

    def __init__(
        self,
        powers: Sequence[Powers],
        lengths: Sequence[int],
        sample_rate: int,
        avoid_silence_db: float | None = None,
        classes: int = 1,
    ) -> None:
        self._arguments = powers, lengths, sample_rate, avoid_silence_db, classes
        self._powers, self._lengths, self._rate = powers, lengths, sample_rate
        self._silent = 0.0 if avoid_silence_db is None else 10 ** (avoid_silence_db / 10)
        self._classes = classes
        self._energies = lru_cache(_REMEMBERED)(self._find_energies)
        self._places = lru_cache(_REMEMBERED)(self._find_places)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process remembers for itself.
        return LoudnessSampler, self._arguments

    def start(self, track: int, stem: int | None, samples: int, uniforms: _Floats) -> int:
        """Draw a start.

        Args:
            track: Number of the track.
            stem: Number of the stem, or None for all of them together.
            samples: Length of the crop.
            uniforms: A number in [0, 1) for each try, one at least.

        Returns:
            First sample of the crop; 0 in a track shorter than it.
        """
        start = 0
        for uniform in uniforms.tolist():
            start = self._start(track, stem, samples, uniform)
            if self._silent == 0 or self.power(track, stem, start, samples) >= self._silent:
                break
            if self._row(track, stem).max() < self._silent:
                break
        return start

    def power(self, track: int, stem: int | None, start: int, samples: int) -> float:
        """Mean square of a crop, full scale being 1.

        Args:
            track: Number of the track.
            stem: Number of the stem, or None for the sum of all stems' powers.
            start: First sample.
            samples: Length of the crop; what lies behind the track's end does not count.
        """
        bounds, energies = self._energies(track, stem)
        end = min(start + samples, self._lengths[track])
        first, last = np.interp((start, end), bounds, energies)
        return float(last - first) / (end - start)

    def _start(self, track: int, stem: int | None, samples: int, uniform: float) -> int:
        if self._classes == 1:
            return int(uniform * (max(self._lengths[track] - samples, 0) + 1))
        begins, chances, starts = self._places(track, stem, samples)
        place = int(np.searchsorted(begins, uniform, "right")) - 1
        within = int((uniform - begins[place]) / chances[place] * starts[place])
        # Rounding may carry it to the next place.
        return place * self._rate + min(within, int(starts[place]) - 1)

    def _row(self, track: int, stem: int | None) -> _Floats:
        powers = self._powers[track].astype(np.float64)
        row: _Floats = powers.sum(0) if stem is None else powers[stem]
        return row

    def _find_energies(self, track: int, stem: int | None) -> tuple[_Floats, _Floats]:
        """Ends of the seconds in samples, from 0 on, and the energy up to each."""
        row = self._row(track, stem)
        bounds = np.minimum(np.arange(len(row) + 1) * float(self._rate), self._lengths[track])
        return bounds, np.concatenate([[0.0], np.cumsum(row * np.diff(bounds))])

    def _find_places(self, track: int, stem: int | None, samples: int) -> _Place:
        length = self._lengths[track]
        count = max(length - samples, 0) + 1
        firsts = np.arange(0, count, self._rate)
        starts = np.minimum(firsts + self._rate, count) - firsts
        ends = np.minimum(firsts + samples, length)
        bounds, energies = self._energies(track, stem)
        powers = (np.interp(ends, bounds, energies) - np.interp(firsts, bounds, energies)) / (
            ends - firsts
        )
        levels = 10 * np.log10(np.maximum(powers, 10 ** (SILENT_DB / 10)))
        width = np.ptp(levels) / self._classes
        if width > 0:
            numbers = ((levels - levels.min()) / width).astype(int).clip(max=self._classes - 1)
        else:  # all equally loud
            numbers = np.zeros(len(levels), int)
        sizes = np.bincount(numbers, starts)
        chances = starts / sizes[numbers] / np.count_nonzero(sizes)
        return _Place(np.cumsum(chances) - chances, chances, starts)
