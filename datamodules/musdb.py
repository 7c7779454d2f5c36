"""MUSDB18, MUSDB18-HQ or any folder of their layout, as a LightningDataModule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from datamodules.audio import DataError, require_ffmpeg
from datamodules.augmentations import Augmentation
from datamodules.demo import VALIDATION_TRACKS, demo_corpus
from datamodules.sampling import AUGMENTATION, ExampleSampler, Position, draw_crop, generator
from datamodules.tracks import (
    MUSDB_VALIDATION_TRACKS,
    STEMS,
    Track,
    index_tracks,
    split_validation,
)

Audio = npt.NDArray[np.float32]


class Batch(NamedTuple):
    """What a model is trained on.

    Attributes:
        mixture: Sum of all stems, shape (B, C, T).
        targets: The model's sources, shape (B, S, C, T).
    """

    mixture: Tensor
    targets: Tensor


class TrackBatch(NamedTuple):
    """A whole track.

    Attributes:
        name: Name of the track.
        mixture: Waveform, shape (C, T).
        targets: The model's sources, shape (S, C, T).
    """

    name: str
    mixture: Tensor
    targets: Tensor


class StemBatch(NamedTuple):
    """Training examples on their way to the device, not yet augmented nor mixed.

    Attributes:
        stems: All stems of the data set, shape (B, stems, C, T).
        positions: Epoch and index of each example, shape (B, 2).
    """

    stems: Tensor
    positions: Tensor


class MUSDBDataModule(LightningDataModule):
    """Random crops of MUSDB18 for training, whole tracks for scoring.

    Args:
        root: Folder with ``train`` and ``test``, each holding a folder of WAV or
            FLAC stems per track, or ``.stem.mp4`` files. Without it the
            environment variable ``MUSDB_PATH`` counts, and without that the
            embedded corpus is rendered.
        sources: What the model separates: names of stems, or names of sources
            each with the stems that it sums, as in
            ``{vocals: [vocals], accompaniment: [drums, bass, other]}``.
        sample_rate: Sample rate that the tracks must have, Hz.
        audio_channels: 1 averages the channels, 2 repeats a mono track.
        segment_seconds: Length of a training crop, seconds.
        batch_size: Examples per step over all ranks together.
        examples_per_epoch: Examples in an epoch; by default as many segments as
            the training tracks hold, so that an epoch hears as much music as
            there is.
        mix_probability: Probability that the stems of an example come from
            different tracks.
        augmentations: What is done to the stems of training examples, in order.
        validation_tracks: Names of the training tracks that validate. By default
            the official fourteen of MUSDB18, else every seventh track.
        validation_crops_per_track: Fixed crops of each validation track on which
            ``val/loss`` is computed.
        predict_paths: Audio files or folders that ``predict`` separates; by
            default the validation tracks.
        download: Fetch the free seven-second preview of MUSDB18 through musdb
            into ``root`` (by default ``~/MUSDB18/MUSDB18-7``).
        num_workers: Processes that read crops.
        seed: Seed of the stream of examples.
    """

    def __init__(
        self,
        root: str | None = None,
        sources: list[str] | dict[str, list[str]] = list(STEMS),  # noqa: B006 (shown in --help)
        sample_rate: int = 44100,
        audio_channels: int = 2,
        segment_seconds: float = 6.0,
        batch_size: int = 16,
        examples_per_epoch: int | None = None,
        mix_probability: float = 0.5,
        augmentations: list[Augmentation] | None = None,
        validation_tracks: list[str] | None = None,
        validation_crops_per_track: int = 8,
        predict_paths: list[str] | None = None,
        download: bool = False,
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = root
        self.sources = grouping(sources)
        self.sample_rate = sample_rate
        self.audio_channels = audio_channels
        self.segment_samples = round(segment_seconds * sample_rate)
        if self.segment_samples < 1:
            raise DataError(f"segment_seconds is {segment_seconds}: give a length above 0")
        self.batch_size = batch_size
        self.examples_per_epoch = examples_per_epoch
        self.mix_probability = mix_probability
        self.augmentations = nn.ModuleList(augmentations or [])
        self.validation_tracks = validation_tracks
        self.validation_crops_per_track = validation_crops_per_track
        self.predict_paths = predict_paths
        self.download = download
        self.num_workers = num_workers
        self.seed = seed
        self.train_tracks: list[Track] = []
        self.valid_tracks: list[Track] = []
        self.test_tracks: list[Track] = []
        # Epoch and batch at which the training stream begins; a checkpoint moves it.
        self._begin: Position = (0, 0)

    # ---------------------------------------------------------------- tracks

    def prepare_data(self) -> None:
        """Render or download what is not there yet (one process per node)."""
        if self.download:
            self._download_preview()
        elif self._given_root() is None:
            demo_corpus()

    def setup(self, stage: str) -> None:
        """Index the tracks that a stage needs; every fault in them is reported here.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            DataError: The data cannot be trained on as they are.
        """
        root = self._root()
        if stage == "test":
            if not self.test_tracks:
                self.test_tracks = self._index(root, "test")
        elif not (self.valid_tracks or (stage == "predict" and self.predict_paths)):
            split = split_validation(self._index(root, "train"), **self._validation_rule(root))
            self.train_tracks, self.valid_tracks = split.train, split.valid
            rank_zero_info(
                f"{len(self.train_tracks)} training and {len(self.valid_tracks)} validation tracks "
                f"in {root} ({split.rule})"
            )
        if stage == "fit":
            self._check_batch_size()

    def _given_root(self) -> Path | None:
        given = self.root or os.environ.get("MUSDB_PATH")
        return Path(given).expanduser() if given else None

    def _root(self) -> Path:
        if self.download:
            return self._preview_root()
        given = self._given_root()
        if given is None:
            rank_zero_info(
                "No data set given (MUSDB_PATH or --data.init_args.root): "
                "using the embedded demo corpus"
            )
            return demo_corpus()
        return given

    def _preview_root(self) -> Path:
        return self._given_root() or Path.home() / "MUSDB18" / "MUSDB18-7"

    def _download_preview(self) -> None:
        require_ffmpeg("the MUSDB18 preview, which comes as .stem.mp4,")
        import musdb  # here, because importing it needs ffmpeg

        root = self._preview_root()
        try:
            musdb.DB(root=str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{root}: the MUSDB18 preview could not be downloaded ({error}); "
                "check the connection, or leave --data.init_args.download out"
            ) from error

    def _validation_rule(self, root: Path) -> dict[str, Any]:
        if self.validation_tracks is not None:
            return {"names": self.validation_tracks, "required": True}
        return {"names": (*MUSDB_VALIDATION_TRACKS, *VALIDATION_TRACKS)}

    def _index(self, root: Path, subset: str) -> list[Track]:
        tracks = index_tracks(root, subset)
        for track in tracks:
            if track.sample_rate != self.sample_rate:
                raise DataError(
                    f"{root / subset / track.name}: sample rate is {track.sample_rate} Hz, "
                    f"{self.sample_rate} Hz was expected; set "
                    f"--data.init_args.sample_rate={track.sample_rate} or resample the data"
                )
            if track.channels != self.audio_channels and 1 not in (
                track.channels,
                self.audio_channels,
            ):
                raise DataError(
                    f"{root / subset / track.name}: has {track.channels} channels, "
                    f"{self.audio_channels} were expected; set --data.init_args.audio_channels"
                )
        return tracks

    def _check_batch_size(self) -> None:
        ranks = self.trainer.world_size if self.trainer else 1
        if self.batch_size % ranks:
            below = self.batch_size // ranks * ranks
            valid = [size for size in (below, below + ranks) if size > 0]
            raise DataError(
                f"batch_size is {self.batch_size}, the global batch, and cannot be shared out "
                f"over {ranks} ranks; nearest that can: {' or '.join(map(str, valid))}"
            )
        if self.batch_size > self.examples():
            raise DataError(
                f"batch_size {self.batch_size} is larger than the epoch's {self.examples()} "
                f"examples ({len(self.train_tracks)} training tracks); lower "
                "--data.init_args.batch_size or set --data.init_args.examples_per_epoch"
            )

    def examples(self) -> int:
        """Number of examples in an epoch."""
        if self.examples_per_epoch is not None:
            return self.examples_per_epoch
        return sum(max(1, track.samples // self.segment_samples) for track in self.train_tracks)

    # --------------------------------------------------------------- loaders

    def train_dataloader(self) -> DataLoader[Any]:
        """Random crops of the training tracks, a share of each global batch."""
        rank, ranks = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        sampler = ExampleSampler(self.examples(), self.batch_size, rank, ranks, *self._begin)
        return self._loader(
            TrainingCrops(self), sampler=sampler, batch_size=sampler.share, drop_last=True
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Fixed crops for the loss, and whole tracks for the scores."""
        share = max(1, self.batch_size // (self.trainer.world_size if self.trainer else 1))
        crops = ValidationCrops(self)
        return [
            self._loader(crops, sampler=self._mine(len(crops)), batch_size=share),
            self._tracks_loader(self.valid_tracks),
        ]

    def test_dataloader(self) -> DataLoader[Any]:
        """Whole test tracks."""
        return self._tracks_loader(self.test_tracks)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Whole tracks, or paths of audio files, one at a time."""
        if self.predict_paths:
            paths = [str(path) for path in self.predict_paths]
            return DataLoader(paths, batch_size=None)  # type: ignore[arg-type]
        return self._tracks_loader(self.valid_tracks)

    def _tracks_loader(self, tracks: Sequence[Track]) -> DataLoader[Any]:
        return self._loader(
            WholeTracks(tracks, self), sampler=self._mine(len(tracks)), batch_size=None
        )

    def _mine(self, items: int) -> range:
        """Numbers of the validation items of this rank: each item once over all ranks."""
        if self.trainer is None:
            return range(items)
        return range(self.trainer.global_rank, items, self.trainer.world_size)

    def _loader(self, dataset: Dataset[Any], **arguments: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_ignore_interrupt,
            **arguments,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment, then mix, then group: training examples only."""
        if not isinstance(batch, StemBatch):
            return batch
        stems, positions = batch
        for number, augmentation in enumerate(self.augmentations):
            assert isinstance(augmentation, Augmentation)
            parameters = np.stack(
                [
                    augmentation.draw(
                        generator(self.seed, AUGMENTATION + number, epoch, index), stems.shape[1]
                    )
                    for epoch, index in positions.tolist()
                ]
            )
            stems = augmentation(stems, torch.from_numpy(parameters).to(stems.device))
        # All stems are in the mixture, also those that no source of the model holds.
        targets = [
            stems[:, [STEMS.index(stem) for stem in group]].sum(1)
            for group in self.sources.values()
        ]
        return Batch(mixture=stems.sum(1), targets=torch.stack(targets, 1))

    # ---------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Where the training stream stands: batches that were processed, and how many make an epoch."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {
            "batches": progress.total.processed,
            "batches_per_epoch": self.trainer.num_training_batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the stream at the example after the last one that was processed.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        self._begin = divmod(state_dict["batches"], state_dict["batches_per_epoch"])
        # Lightning cannot know that the stream goes on by itself.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    # ------------------------------------------------------------------ read

    def as_model_hears(self, audio: Audio) -> Audio:
        """Bring audio to the wanted number of channels.

        Args:
            audio: Waveforms, shape (..., channels, T).

        Returns:
            Waveforms, shape (..., audio_channels, T).
        """
        if audio.shape[-2] == self.audio_channels:
            return audio
        if self.audio_channels == 1:
            return audio.mean(-2, keepdims=True)
        return np.repeat(audio, self.audio_channels, axis=-2)

    def read_batch(
        self, track: Track, start: int = 0, samples: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read a track's mixture and the model's sources.

        Args:
            track: The track.
            start: First sample.
            samples: Number of samples; by default all that follow.

        Returns:
            Mixture, shape (C, T), and targets, shape (S, C, T).
        """
        stems = self.as_model_hears(track.read_stems(STEMS, start, samples))
        # The track's own mixture is what a separator meets; it can differ from the sum of stems.
        mixture = self.as_model_hears(track.read_mixture(start, samples))
        targets = np.stack(
            [
                stems[[STEMS.index(stem) for stem in group]].sum(0)
                for group in self.sources.values()
            ]
        )
        return torch.from_numpy(mixture), torch.from_numpy(targets)


class TrainingCrops(Dataset[StemBatch]):
    """Crops of all stems, by position in the stream.

    Args:
        data: The data module whose training tracks are read.
    """

    def __init__(self, data: MUSDBDataModule) -> None:
        self.data = data
        self.lengths = np.array([track.samples for track in data.train_tracks])

    def __getitem__(self, position: Position) -> StemBatch:
        data = self.data
        crop = draw_crop(
            data.seed,
            position,
            self.lengths,
            data.segment_samples,
            len(STEMS),
            data.mix_probability,
        )
        stems = np.zeros((len(STEMS), data.audio_channels, data.segment_samples), np.float32)
        starts = np.broadcast_to(crop.starts, len(STEMS))
        for number, stem in enumerate(STEMS):
            track = data.train_tracks[crop.tracks[number]]
            audio = track.read(stem, int(starts[number]), data.segment_samples)
            # A track shorter than the segment ends in silence.
            stems[number, :, : audio.shape[-1]] = data.as_model_hears(audio)
        return StemBatch(torch.from_numpy(stems), torch.tensor(position))


class ValidationCrops(Dataset[Batch]):
    """Crops at fixed places, spread evenly over each validation track.

    Args:
        data: The data module whose validation tracks are read.
    """

    def __init__(self, data: MUSDBDataModule) -> None:
        self.data = data
        self.places = [
            (track, int(start))
            for track in data.valid_tracks
            for start in np.unique(
                np.linspace(
                    0,
                    max(0, track.samples - data.segment_samples),
                    data.validation_crops_per_track,
                    dtype=np.int64,
                )
            )
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Batch:
        track, start = self.places[number]
        mixture, targets = self.data.read_batch(track, start, self.data.segment_samples)
        missing = (0, self.data.segment_samples - mixture.shape[-1])
        return Batch(nn.functional.pad(mixture, missing), nn.functional.pad(targets, missing))


class WholeTracks(Dataset[TrackBatch]):
    """Whole tracks, one an item.

    Args:
        tracks: The tracks.
        data: The data module that tells sources and channels.
    """

    def __init__(self, tracks: Sequence[Track], data: MUSDBDataModule) -> None:
        self.tracks, self.data = tracks, data

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, number: int) -> TrackBatch:
        track = self.tracks[number]
        return TrackBatch(track.name, *self.data.read_batch(track))


def grouping(sources: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Which stems make each of the model's sources.

    Args:
        sources: Names of stems, or names of sources each with its stems.

    Returns:
        Source name -> names of its stems.

    Raises:
        DataError: A source names a stem that the data set does not have.
    """
    groups = (
        {name: list(stems) for name, stems in sources.items()}
        if isinstance(sources, Mapping)
        else {name: [name] for name in sources}
    )
    if not groups:
        raise DataError("sources is empty: name at least one of " + ", ".join(STEMS))
    for name, stems in groups.items():
        unknown = [stem for stem in stems if stem not in STEMS]
        if unknown or not stems:
            raise DataError(
                f"source {name!r} is made of {stems}: known stems are {', '.join(STEMS)}; group "
                "them as in {vocals: [vocals], accompaniment: [drums, bass, other]}"
            )
        if len(set(stems)) < len(stems):
            raise DataError(f"source {name!r} is made of {stems}: name each stem once")
    return groups


def _ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C to the main process, which stops the workers when it is ready."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
