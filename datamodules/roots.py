"""From folders of data sets to the tracks that train, validate and test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_info

from datamodules.demo.corpus import VALIDATION_TRACKS, demo_corpus
from datamodules.errors import DataError
from datamodules.files.audio import require_ffmpeg
from datamodules.tracks.index import (
    MUSDB_VALIDATION_TRACKS,
    Track,
    index_tracks,
    split_validation,
)
from datamodules.tracks.layouts import weighted_roots
from datamodules.tracks.preparation import resample_tracks
from datamodules.tracks.sources import SourceGrouping


class FitTracks(NamedTuple):
    """Tracks of the training subsets.

    Attributes:
        train: Those that train, one list a root.
        valid: Those that validate.
    """

    train: list[list[Track]]
    valid: list[Track]


class DatasetRoots:
    """The folders to take tracks from, and what is asked of a track.

    Args:
        root: One folder, several with weights, or None: see ``MUSDBDataModule``.
        download: Whether the preview of MUSDB18 is wanted, in ``root``.
        listener: Tells stems and channels.
        missing_as_silence: Take a stem without a file as silence.
        sample_rate: Sample rate to bring all tracks to, Hz.
        validation_tracks: Names of the training tracks that validate; None for a default.

    Attributes:
        weights: How often each root is drawn from, relative to the others.
        download: Whether the preview is wanted.

    Raises:
        DataError: A weight makes no sense.
    """

    def __init__(
        self,
        root: Mapping[str, float] | str | None,
        download: bool,
        listener: SourceGrouping,
        missing_as_silence: bool,
        sample_rate: int,
        validation_tracks: Sequence[str] | None,
    ) -> None:
        weights = weighted_roots(root)
        self.weights = list(weights.values()) or [1.0]
        self._first = next(iter(weights), None)
        self._others = [Path(other).expanduser() for other in list(weights)[1:]]
        self.download = download
        self._listener = listener
        self._missing_as_silence = missing_as_silence
        self._sample_rate = sample_rate
        self._validation_tracks = validation_tracks
        self._embedded: Path | None = None

    def fetch(self) -> None:
        """Download the preview or render the embedded corpus, where one of them is asked for."""
        if self.download:
            self._download_preview()
        elif self._given() is None:
            self._embedded = demo_corpus()

    def fit_tracks(self, progress: bool) -> FitTracks:
        """Index the training subsets and part them.

        Args:
            progress: Show progress bars.

        Returns:
            The tracks.

        Raises:
            DataError: The data cannot be trained on as they are.
        """
        root = self._path()
        train, valid, rule = split_validation(
            self._index(root, "train", progress), **self._validation_rule(root)
        )
        rank_zero_info(
            f"{len(train)} training and {len(valid)} validation tracks in {root} ({rule})"
        )
        held_out = {track.name for track in valid}
        others = [self._beside(other, held_out, progress) for other in self._others]
        return FitTracks([train, *others], valid)

    def test_tracks(self, progress: bool) -> list[Track]:
        """Index the test subset of the first root.

        Args:
            progress: Show progress bars.

        Returns:
            The tracks.

        Raises:
            DataError: The data cannot be scored as they are.
        """
        return self._index(self._path(), "test", progress)

    def _beside(self, root: Path, held_out: set[str], progress: bool) -> list[Track]:
        """Another root's training tracks, but for those that validate under the same name."""
        found = self._index(root, "train", progress)
        tracks = [track for track in found if track.name not in held_out]
        if not tracks:
            raise DataError(
                f"{root}: all of its {len(found)} training tracks are named as validation tracks "
                "of the first root, others were expected; leave it out of root"
            )
        rank_zero_info(
            f"{len(tracks)} more training tracks in {root} ({len(found) - len(tracks)} left out, "
            "which validate by name)"
        )
        return tracks

    def _given(self) -> Path | None:
        given = self._first or os.environ.get("MUSDB_PATH")
        return Path(given).expanduser() if given else None

    def _path(self) -> Path:
        if self.download:
            return self._preview()
        given = self._given()
        if given is None:
            rank_zero_info(
                "No data set given (MUSDB_PATH or --data.init_args.root): "
                "using the embedded demo corpus"
            )
            # Other processes than the one that rendered it check it themselves.
            return self._embedded or demo_corpus()
        return given

    def _preview(self) -> Path:
        return self._given() or Path.home() / "MUSDB18" / "MUSDB18-7"

    def _download_preview(self) -> None:
        require_ffmpeg("the MUSDB18 preview, which comes as .stem.mp4,")
        import musdb  # here, because importing it needs ffmpeg

        root = self._preview()
        try:
            musdb.DB(root=str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{root}: the MUSDB18 preview could not be downloaded ({error}); "
                "check the connection, or leave --data.init_args.download out"
            ) from error

    def _validation_rule(self, root: Path) -> dict[str, Any]:
        if self._validation_tracks is not None:
            return {"names": self._validation_tracks, "required": True}
        embedded = all((root / "train" / name).is_dir() for name in VALIDATION_TRACKS)
        return {"names": VALIDATION_TRACKS if embedded else MUSDB_VALIDATION_TRACKS}

    def _index(self, root: Path, subset: str, progress: bool) -> list[Track]:
        wanted = self._listener.audio_channels
        tracks = index_tracks(
            root,
            subset,
            stems=self._listener.stems,
            missing_as_silence=self._missing_as_silence,
            progress=progress,
        )
        for track in tracks:
            if track.channels != wanted and 1 not in (track.channels, wanted):
                raise DataError(
                    f"{root / subset / track.name}: has {track.channels} channels, 1 or "
                    f"{wanted} were expected; set "
                    f"--data.init_args.audio_channels={track.channels}"
                )
        return resample_tracks(tracks, self._sample_rate, progress)
