"""Roots of data sets, indexed and split into training, validation and test tracks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from datamodules.command_line import program
from datamodules.demo.corpus import VALIDATION_TRACKS, demo_corpus
from datamodules.errors import DataError, counted
from datamodules.files.ffmpeg import require_ffmpeg
from datamodules.files.names import song_key
from datamodules.tracks.findings import Finding, summarise
from datamodules.tracks.index import Track, index_tracks
from datamodules.tracks.layouts import (
    find_entries,
    path_of,
    subset_place,
    subsets_of,
    weighted_roots,
)
from datamodules.tracks.sources import SourceGrouping
from datamodules.tracks.splits import (
    MUSDB_VALIDATION_TRACKS,
    Split,
    split_by_folder,
    split_validation,
    without_names,
)
from datamodules.tracks.unread import unread_in_root


class DatasetRoots:
    """The roots of a data module, and the requirements on their tracks.

    Args:
        root: One folder, several with weights, or None: see ``MUSDBDataModule``.
        download: Use the preview of MUSDB18, downloaded to ``root``.
        grouping: The data set's stems and the model's channels.
        missing_as_silence: Replace missing stems by silence.
        missing_as_unknown: Missing stems may sound in the track.
        validation_tracks: Names of the validation tracks; None for the default split.

    Attributes:
        weights: How often each root is drawn from, relative to the others.
        download: Whether the preview is used.

    Raises:
        DataError: A weight is not a positive number, or both rules for missing stems are set.
    """

    def __init__(
        self,
        root: Mapping[str, float] | str | None,
        download: bool,
        grouping: SourceGrouping,
        missing_as_silence: bool,
        missing_as_unknown: bool,
        validation_tracks: Sequence[str] | None,
    ) -> None:
        weights = weighted_roots(root)
        self.weights = list(weights.values()) or [1.0]
        self._first = next(iter(weights), None)
        self._others = list(weights)[1:]
        self.download = download
        self._grouping = grouping
        if missing_as_silence and missing_as_unknown:
            raise DataError(
                "missing_as_silence and missing_as_unknown are both set: a missing stem is either "
                "silent or unknown; set one of them"
            )
        self._missing = {
            "missing_as_silence": missing_as_silence,
            "missing_as_unknown": missing_as_unknown,
        }
        self._validation_tracks = validation_tracks
        self._embedded: Path | None = None

    def fetch(self) -> None:
        """Download the preview or render the demo corpus, if it is used."""
        if self.download:
            self._download_preview()
        elif self._given_root() is None:
            self._embedded = demo_corpus()

    def fit_tracks(self, progress: bool) -> tuple[list[list[Track]], list[Track]]:
        """Index the training subsets: training tracks, one list per root, and validation tracks."""
        root = self._root()
        findings = unread_in_root(root, self._grouping.stems)
        train, valid, rule = self._split(root, findings, progress)
        rank_zero_info(
            f"{len(train)} training and {counted(len(valid), 'validation track')} in {root} "
            f"({rule})"
        )
        others = [self._index_other(other, valid, findings, progress) for other in self._others]
        findings += self._named_as_test_tracks(root, others)
        _tell(findings)
        return [train, *others], valid

    def test_tracks(self, progress: bool) -> list[Track]:
        """Index the test subset of the first root."""
        findings: list[Finding] = []
        tracks = self._index(self._root(), "test", findings, progress)
        _tell(findings)
        return tracks

    def _split(self, root: str | Path, findings: list[Finding], progress: bool) -> Split:
        """Validate on the tracks given by name, else on a validation subset, else on others."""
        train = self._index(root, "train", findings, progress)
        folder = subset_place(root, "valid", self._grouping.stems)
        if folder and self._validation_tracks is None:
            valid = self._index(root, "valid", findings, progress)
            return split_by_folder(train, valid, folder)
        whole = [track for track in train if not track.is_loose]
        if not whole:
            raise DataError(
                f"{root}: all of its training tracks are files of single stems, and validation "
                "needs all stems; add a subset valid, or list a data set with whole tracks first "
                "in root"
            )
        split = split_validation(whole, **self._validation_rule(root))
        loose = [track for track in train if track.is_loose]
        split = split._replace(train=split.train + loose)
        if folder:
            unused = f"; {folder.name} is not used, because validation_tracks is set"
            split = split._replace(rule=split.rule + unused)
        return split

    def _index_other(
        self, root: str, valid: Sequence[Track], findings: list[Finding], progress: bool
    ) -> list[Track]:
        """Training tracks of another root, without those named as validation tracks."""
        found = self._index(root, "train", findings, progress)
        tracks = without_names(found, [track.name for track in valid], song_key)
        if not tracks:
            raise DataError(
                f"{root}: all of its training tracks ({len(found)}) have names of validation "
                "tracks of the first root; leave it out of root"
            )
        findings += unread_in_root(root, self._grouping.stems)
        rule = f"{len(found) - len(tracks)} left out, named as validation tracks"
        if others := [name for name in subsets_of(root, self._grouping.stems) if name != "train"]:
            rule += f"; {' and '.join(others)} not used, only those of the first root"
        rank_zero_info(f"{counted(len(tracks), 'more training track')} in {root} ({rule})")
        return tracks

    def _named_as_test_tracks(
        self, root: str | Path, others: Sequence[Sequence[Track]]
    ) -> list[Finding]:
        """Warnings about training tracks of other roots that have names of test tracks."""
        stems = self._grouping.stems
        if not others or "test" not in subsets_of(root, stems):
            return []
        tests = {song_key(entry.name): entry.name for entry in find_entries(root, "test", stems)}
        return [
            Finding(
                "warning",
                "same-name",
                f"{other}/{track.name}",
                f"is trained on, and has the name of test/{tests[song_key(track.name)]} of {root}",
                "remove it there if it is the same song, or test scores are too high; "
                f"{program('datamodules.doctor')} {root} --others {other} compares the audio",
            )
            for other, tracks in zip(self._others, others, strict=True)
            for track in tracks
            if song_key(track.name) in tests
        ]

    def _given_root(self) -> str | None:
        return self._first or os.environ.get("MUSDB_PATH")

    def _root(self) -> str | Path:
        if self.download:
            return self._preview_root()
        given = self._given_root()
        if given is None:
            rank_zero_info(
                "No data set given (MUSDB_PATH or --data.init_args.root): using the demo corpus"
            )
            # Only the process that rendered it has its path.
            return self._embedded or demo_corpus()
        return given

    def _preview_root(self) -> Path:
        given = self._given_root()
        return path_of(given) if given else Path.home() / "MUSDB18" / "MUSDB18-7"

    def _download_preview(self) -> None:
        require_ffmpeg("the MUSDB18 preview (.stem.mp4)")
        import musdb  # here, because importing it needs ffmpeg

        root = self._preview_root()
        try:
            musdb.DB(root=str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{root}: the MUSDB18 preview could not be downloaded ({error}); "
                "check the connection, or remove --data.init_args.download"
            ) from error

    def _validation_rule(self, root: str | Path) -> dict[str, Any]:
        if self._validation_tracks is not None:
            return {"names": self._validation_tracks, "required": True}
        embedded = all((path_of(root) / "train" / name).is_dir() for name in VALIDATION_TRACKS)
        return {"names": VALIDATION_TRACKS if embedded else MUSDB_VALIDATION_TRACKS}

    def _index(
        self, root: str | Path, subset: str, findings: list[Finding], progress: bool
    ) -> list[Track]:
        expected = self._grouping.audio_channels
        tracks = index_tracks(
            root,
            subset,
            stems=self._grouping.stems,
            **self._missing,
            progress=progress,
            findings=findings,
        )
        for track in tracks:
            if track.channels != expected and 1 not in (track.channels, expected):
                raise DataError(
                    f"{root}/{subset}/{track.name}: has {track.channels} channels, expected 1 or "
                    f"{expected}; set --data.init_args.audio_channels={track.channels}"
                )
        return tracks


def _tell(findings: Sequence[Finding]) -> None:
    lines = summarise(findings)
    if lines:
        lines.append(f"{program('datamodules.doctor')} ROOT lists all of them")
        rank_zero_info("\n".join(lines))
