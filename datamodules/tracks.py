"""The index of tracks on disk: what there is, checked before training, read in parts.

A root holds ``{train,test}/<track>/{mixture,vocals,drums,bass,other}.{wav,flac}`` (the
layout of MUSDB18-HQ, which ``musdb.DB(is_wav=True)`` reads too) or
``{train,test}/<track>.stem.mp4`` (MUSDB18), or both.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules import audio
from datamodules.audio import Audio, DataError
from datamodules.faults import for_each, raise_faults
from datamodules.pcm_cache import cache_folder, decode, decoded_folder, state

STEMS = ("vocals", "drums", "bass", "other")
MIXTURE = "mixture"

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

_STEM_FILE_SUFFIX = ".stem.mp4"
_FORMATS = (".wav", ".flac")
_LAYOUT = (
    "{train,test}/<track>/{mixture,vocals,drums,bass,other}.wav (or .flac), "
    "or {train,test}/<track>.stem.mp4"
)
_FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")
_SCAN_BLOCK_SAMPLES = 2**18


@dataclass(frozen=True)
class Track:
    """A song with its stems, on disk.

    Attributes:
        name: Name of the track, as musdb gives it.
        subset: ``train`` or ``test``.
        stems: Stem name -> its file; of a .stem.mp4, the decoded one.
        mixture: File of the track's own mixture, if it has one.
        samples: Length of each file, samples per channel.
        sample_rate: Sample rate, Hz.
        channels: Number of channels.
    """

    name: str
    subset: str
    stems: Mapping[str, Path]
    mixture: Path | None
    samples: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length, seconds."""
        return self.samples / self.sample_rate

    def read(self, stem: str, start: int = 0, samples: int | None = None) -> Audio:
        """Read a part of one stem.

        Args:
            stem: Name of the stem, or ``mixture``.
            start: First sample.
            samples: Number of samples; by default all that follow. Past the end of the
                track the result is short.

        Returns:
            Waveform, shape (C, T).

        Raises:
            DataError: The file cannot be read.
        """
        if stem == MIXTURE:
            return self.read_mixture(start, samples)
        return audio.read(self.stems[stem], start, samples)

    def read_stems(self, names: Sequence[str], start: int = 0, samples: int | None = None) -> Audio:
        """Read the same part of several stems.

        Args:
            names: Names of the stems.
            start: First sample.
            samples: Number of samples; by default all that follow.

        Returns:
            Waveforms in the order of the names, shape (S, C, T).

        Raises:
            DataError: A file cannot be read.
        """
        return np.stack([self.read(name, start, samples) for name in names])

    def read_mixture(self, start: int = 0, samples: int | None = None) -> Audio:
        """Read a part of the track's own mixture, or of the sum of its stems.

        Args:
            start: First sample.
            samples: Number of samples; by default all that follow.

        Returns:
            Waveform, shape (C, T).

        Raises:
            DataError: A file cannot be read.
        """
        if self.mixture is not None:
            return audio.read(self.mixture, start, samples)
        total: Audio = self.read_stems(tuple(self.stems), start, samples).sum(0)
        return total


class Split(NamedTuple):
    """Tracks to train on and to validate on, and the rule that parted them, in words."""

    train: list[Track]
    valid: list[Track]
    rule: str


def index_tracks(
    root: str | Path, subset: str, *, stems: Sequence[str] = STEMS, progress: bool = True
) -> list[Track]:
    """Find the tracks of a subset and check all that can be checked before training.

    Each .stem.mp4 is decoded once, into the cache: reading parts of AAC is slow and inexact.

    Args:
        root: Folder that holds the subsets.
        subset: ``train`` or ``test``.
        stems: Names of the stems that every track must have.
        progress: Show progress bars for what takes more than a second.

    Returns:
        The tracks, sorted by name.

    Raises:
        DataError: Something is missing or faulty; up to five faulty tracks are named.
        FFmpegMissingError: A .stem.mp4 must be decoded, and ffmpeg is not installed.
    """
    entries = _find_entries(Path(root).expanduser(), subset)
    stem_files = [path for path in entries.values() if not path.is_dir()]
    decode(stem_files, progress)

    def load(name: str) -> tuple[Track, list[Path]]:
        return _load(name, subset, entries[name], stems)

    loaded = for_each(load, list(entries), "checking tracks", progress)
    tracks = [track for track, _ in loaded]
    _check_sample_rates(tracks)
    _check_finite([path for _, float_files in loaded for path in float_files], progress)
    return tracks


def split_validation(
    tracks: Sequence[Track],
    names: Sequence[str] = MUSDB_VALIDATION_TRACKS,
    fraction: float = 0.14,
    *,
    required: bool = False,
) -> Split:
    """Part the training subset into tracks to train on and tracks to validate on.

    Args:
        tracks: Tracks of the training subset.
        names: The tracks of these names validate, if there are any.
        fraction: Otherwise this share of the tracks does, spread evenly over their sorted
            names: at least one, never all.
        required: Every name must be there; the fraction does not step in.

    Returns:
        Both lists, sorted by name, and which rule applied.

    Raises:
        DataError: No track is left for training or for validation, or a required one is missing.
    """
    tracks = sorted(tracks, key=lambda track: track.name)
    present = {track.name for track in tracks}
    missing = [name for name in names if name not in present]
    if required and (missing or not names):
        raise DataError(
            f"no validation tracks of the names {', '.join(map(repr, missing)) or '(none given)'} "
            f"among the {len(tracks)} training tracks; expected names of tracks such as "
            f"{', '.join(map(repr, sorted(present)[:3]))}: correct the names, or give none to "
            "validate on a fraction of the tracks"
        )
    chosen = present.intersection(names)
    if chosen:
        rule = f"validation: {len(chosen)} of the {len(names)} named tracks"
    else:
        if len(tracks) < 2:
            raise DataError(
                f"no validation tracks: {len(tracks)} training track found, at least 2 were "
                "expected, one of them to validate on; add a track"
            )
        count = min(max(1, round(fraction * len(tracks))), len(tracks) - 1)
        step = len(tracks) / count
        chosen = {tracks[int((number + 0.5) * step)].name for number in range(count)}
        rule = (
            f"none of the {len(names)} named validation tracks is there: validation by {count} "
            f"of {len(tracks)} tracks, fraction {fraction:g}, spread over the sorted names"
        )
    train = [track for track in tracks if track.name not in chosen]
    if not train:
        raise DataError(
            f"no training tracks: all {len(tracks)} tracks are named for validation, others were "
            "expected besides; add tracks or name fewer for validation"
        )
    return Split(train, [track for track in tracks if track.name in chosen], rule)


# --------------------------------------------------------------------- find


def _find_entries(root: Path, subset: str) -> dict[str, Path]:
    """Track name -> its folder or .stem.mp4, sorted by name."""
    folder = root / subset
    if not root.is_dir():
        fault = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root}: {fault}; expected {_LAYOUT} in it; check the path of the root")
    if not folder.is_dir():
        advice = "check the path of the root"
        if (resolved := root.resolve()).name in ("train", "test"):
            advice = f"give the folder above it as the root: {resolved.parent}"
        elif below := sorted(path.parent for path in root.glob(f"*/{subset}")):
            advice = f"did you mean {below[0]}?"
        raise DataError(f"{root}: has no folder {subset!r}; expected {_LAYOUT} in it; {advice}")
    found = [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and (path.name.endswith(_STEM_FILE_SUFFIX) or path.is_dir())
    ]
    if not found:
        names = sorted(path.name for path in folder.iterdir())[:3]
        raise DataError(
            f"{folder}: no tracks in it (found: {', '.join(names) or 'nothing'}); expected "
            f"{_LAYOUT} in {root}; check the path, or copy the tracks there"
        )
    # A folder comes later, so that it stands in for a .stem.mp4 of the same name.
    found.sort(key=Path.is_dir)
    entries = {path.name.removesuffix(_STEM_FILE_SUFFIX): path for path in found}
    return dict(sorted(entries.items()))


def _load(name: str, subset: str, entry: Path, stems: Sequence[str]) -> tuple[Track, list[Path]]:
    """Check a track's headers; returns it and those of its files that may hold a NaN."""
    if entry.is_dir():
        return _load_folder(name, subset, entry, stems)
    folder = decoded_folder(entry)
    try:
        return _load_folder(name, subset, folder, stems)[0], []
    except DataError as fault:
        raise DataError(
            f"{entry}, as decoded: {fault}; if the file is sound, delete {folder} to decode again"
        ) from fault


def _load_folder(
    name: str, subset: str, folder: Path, stems: Sequence[str]
) -> tuple[Track, list[Path]]:
    present = {path.name for path in folder.iterdir()}
    files = {}
    for stem in (*stems, MIXTURE):
        known = [stem + suffix for suffix in _FORMATS if stem + suffix in present]
        if known:
            files[stem] = folder / known[0]
        elif stem != MIXTURE:
            raise DataError(
                f"{folder}: no {stem}.wav or {stem}.flac (found: "
                f"{', '.join(sorted(present)[:8]) or 'nothing'}); every track needs "
                f"{', '.join(stems)}; restore the file or remove the track (sources other than "
                "these stems are made by grouping them in the config)"
            )
    infos = {stem: audio.inspect_seekable(path) for stem, path in files.items()}
    first = infos[stems[0]]
    for stem, info in infos.items():
        for what, unit in (("samples", "samples"), ("sample_rate", "Hz"), ("channels", "channels")):
            if getattr(info, what) != getattr(first, what):
                raise DataError(
                    f"{files[stem]}: has {getattr(info, what)} {unit}, but {files[stems[0]].name} "
                    f"has {getattr(first, what)} {unit}; all files of a track must have the same "
                    "length, sample rate and channels; export them again from one session"
                )
    float_files = [files[stem] for stem, info in infos.items() if info.subtype in _FLOAT_SUBTYPES]
    mixture = files.pop(MIXTURE, None)
    track = Track(name, subset, files, mixture, first.samples, first.sample_rate, first.channels)
    return track, float_files


# -------------------------------------------------------------------- check


def _check_sample_rates(tracks: Sequence[Track]) -> None:
    counts = Counter(track.sample_rate for track in tracks)
    usual = counts.most_common(1)[0][0]
    raise_faults(
        [
            f"{next(iter(track.stems.values())).parent}: sample rate is {track.sample_rate} Hz, "
            f"but {counts[usual]} of {len(tracks)} tracks have {usual} Hz; all must have the "
            "same; resample the track or remove it"
            for track in tracks
            if track.sample_rate != usual
        ]
    )


def _check_finite(files: Sequence[Path], progress: bool) -> None:
    """Look for NaN and infinity in float files, and remember the good ones in the cache."""
    memory = cache_folder() / "finite.json"
    known: dict[str, list[int]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text())

    def scan(path: Path) -> None:
        before = state(path)
        position = 0
        for block in audio.blocks(path, _SCAN_BLOCK_SAMPLES):
            if not np.isfinite(block).all():
                sample = position + int(np.argmin(np.isfinite(block).all(0)))
                seconds = sample / audio.inspect(path).sample_rate
                raise DataError(
                    f"{path}: holds NaN or infinity, first at {seconds:.3f} s (sample {sample}); "
                    "finite samples were expected; export the stem again or remove the track"
                )
            position += block.shape[-1]
        known[str(path.resolve())] = before

    new = [path for path in files if known.get(str(path.resolve())) != state(path)]
    if not new:
        return
    try:
        for_each(scan, new, "looking for NaN", progress, workers=4)
    finally:
        # A cache that cannot be written costs a scan at the next start, nothing else.
        with suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as file:
                json.dump(known, file)
            os.replace(file.name, memory)
