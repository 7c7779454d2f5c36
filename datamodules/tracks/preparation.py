"""Tracks at the model's sample rate, in files that can be memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.cache.folder import Decoded
from datamodules.cache.mixes import Mix
from datamodules.cache.pcm import decode, mix
from datamodules.files.state import State
from datamodules.tracks.headers import Header, decoded_headers
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import MIXTURE

REMAINDER = "(remainder)"
"""Name of the stem that contains what is unknown in a track."""


def resample_tracks(tracks: Sequence[Track], sample_rate: int, progress: bool) -> list[Track]:
    """Resample tracks of other rates, with their mixtures, once into the cache.

    Args:
        tracks: The tracks.
        sample_rate: The rate, Hz.
        progress: Show a progress bar, and before it the required disk space.

    Returns:
        The tracks, all at that rate; resampled ones have ceil(samples × new / old) samples, as
        32-bit floats.
    """
    files = [
        [] if track.sample_rate == sample_rate else list(_files(track).values()) for track in tracks
    ]
    return _decode(tracks, files, progress, sample_rate)


def add_remainders(tracks: Sequence[Track], progress: bool) -> list[Track]:
    """Replace unknown stems by ``REMAINDER``: what is in the mixture besides the known stems.

    It is the mixture minus the known stems, computed once into the cache; without a mixture it is
    the file of ``other``, if there is one.
    """
    mixes: dict[int, Mix] = {}
    added: dict[int, tuple[Path, State]] = {}
    for number, track in enumerate(tracks):
        if not track.unknown:
            continue
        known = [path for stem, path in track.stems.items() if stem not in track.unknown]
        if track.mixture:
            gains = ((track.mixture, 1), *((path, -1) for path in known))
            mixes[number] = Mix(gains, track.samples, track.channels)
        elif other := next((stem for stem in track.unknown if stem in track.stems), None):
            added[number] = track.stems[other], track.states[other]
    entries = mix(list(mixes.values()), progress) if mixes else {}
    for number, wanted in mixes.items():
        ((file, header),) = decoded_headers({wanted.files[0]: entries[wanted]}).items()
        added[number] = file, header.state
    result = []
    for number, track in enumerate(tracks):
        if track.unknown:
            stems = {stem: path for stem, path in track.stems.items() if stem not in track.unknown}
            states = dict(track.states)
            unmappable = [stem for stem in track.unmappable if stem in stems]
            if number in added:
                stems[REMAINDER], states[REMAINDER] = added[number]
                if number not in mixes and len(unmappable) < len(track.unmappable):
                    unmappable.append(REMAINDER)
            track = replace(track, stems=stems, states=states, unmappable=tuple(unmappable))
        result.append(track)
    return result


def make_mappable(tracks: Sequence[Track], progress: bool) -> list[Track]:
    """Decode the stems that cannot be memory-mapped, once into the cache."""
    files = [[track.stems[stem] for stem in track.unmappable] for track in tracks]
    return _decode(tracks, files, progress)


def _files(track: Track) -> dict[str, Path]:
    return {**track.stems, **({MIXTURE: track.mixture} if track.mixture else {})}


def _decode(
    tracks: Sequence[Track],
    files: Sequence[Sequence[Path]],
    progress: bool,
    sample_rate: int | None = None,
) -> list[Track]:
    """Replace the given files of each track by copies in the cache."""
    all_files = [file for track_files in files for file in track_files]
    entries = decode(all_files, progress, sample_rate=sample_rate)
    headers = decoded_headers(entries)
    return [
        _from_cache(track, entries, headers) if track_files else track
        for track, track_files in zip(tracks, files, strict=True)
    ]


def _from_cache(
    track: Track, entries: Mapping[Path, Decoded], headers: Mapping[Path, Header]
) -> Track:
    files = {
        name: entries[file].file() if file in entries else file
        for name, file in _files(track).items()
    }
    replaced = {name: headers[file] for name, file in files.items() if file in headers}
    first = next(iter(replaced.values()))
    return replace(
        track,
        stems={stem: files[stem] for stem in track.stems},
        mixture=files.get(MIXTURE),
        samples=first.samples,
        sample_rate=first.sample_rate,
        unmappable=(),
        states={**track.states, **{name: header.state for name, header in replaced.items()}},
    )
