"""LightningDataModule for MUSDB18, MUSDB18-HQ and data sets with one folder of stems per track."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentations.base import Augmentation, FusedAugmentation
from datamodules.batches import Batch, PartialBatch, PartialCrops, StemBatch
from datamodules.errors import DataError
from datamodules.files.find import SongFile, find_audio_files
from datamodules.garbage import collector_paused
from datamodules.parallel import raise_faults
from datamodules.randomness import AUGMENTATION, Position
from datamodules.roots import DatasetRoots
from datamodules.stream.batch_size import check_batch_size
from datamodules.stream.crops import CropSampler, SamplingConfig
from datamodules.stream.curriculum import crop_lengths
from datamodules.stream.datasets import TrainingCrops, ValidationCrops, WholeTracks
from datamodules.stream.loudness import Powers, measure_loudness
from datamodules.stream.pools import (
    check_drawing,
    crop_sampler,
    known_in_examples,
    known_stems,
    segments,
)
from datamodules.stream.ring_loader import RingLoader, WorkerLoader
from datamodules.stream.sampler import ExampleSampler, share_by_length
from datamodules.stream.workers import ignore_signals
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import STEMS
from datamodules.tracks.preparation import (
    REMAINDER,
    add_remainders,
    make_mappable,
    resample_tracks,
)
from datamodules.tracks.sources import SourceGrouping, grouping

# Sample rates outside are mistakes.
_LOWEST_HZ, _HIGHEST_HZ = 1000, 768_000


class MUSDBDataModule(LightningDataModule):
    """Random crops for training, whole tracks for validation and test.

    Args:
        root: Data set: a folder with ``train``, ``test`` and optionally ``valid``, each with one
            folder of WAV, FLAC or Ogg stems per track or with ``.stem.mp4`` files; a folder of
            tracks without subsets; a list of files (``.csv``, ``.json``); or another layout of
            docs/data.md, whose name may precede the path, as in ``list:/data/tracks.csv``. By
            default the environment variable ``MUSDB_PATH``; if it is not set, the
            demo corpus. Several data sets are mixed by weight: with ``{/data/musdb18hq: 1.0,
            /data/extra: 0.5}`` two out of three stems are drawn from the first one. The first data
            set is used for validation and test; all training tracks of the others are used for
            training, except those with the name of a validation track.
        sources: Sources to separate: a list of stems, or a dictionary that maps each source to the
            stems whose sum it is: ``{vocals: [vocals], accompaniment: [drums, bass, other]}``.
        stems: Names of the stems of every track; their sum is the mixture of a training example.
        missing_as_silence: Replace missing stem files with silence instead of raising an error.
        missing_as_unknown: Leave stems without a file out of the loss, track by track, and with
            them ``other``, which may contain them; the mixture of such a track contains everything.
        sample_rate: Sample rate of training examples and of ``val/loss``, Hz; tracks at other rates
            are resampled once, into the cache. Whole tracks keep their own rate: models of all
            rates are scored on the same references.
        audio_channels: Number of channels; 1 averages stereo tracks, 2 repeats mono ones.
        segment_seconds: Length of a training crop, seconds.
        segment_curriculum: Shorter crops in the first epochs: epoch -> crop length from that epoch
            on, seconds, as in ``{0: 1.0, 10: 3.0}``. The number of examples stays the same.
        batch_size: Examples per optimiser step, over all ranks.
        examples_per_epoch: Examples in an epoch; by default the number of segments in the training
            tracks, so that an epoch covers the training set once.
        mix_probability: Probability that the stems of an example come from different tracks.
        avoid_silence_db: Draw another start if the level of a stem's crop is below this value,
            dBFS, for example -60. If all stems come from the same track and start, the sum of
            their powers is compared.
        silence_tries: Largest number of starts drawn to avoid silence; the last one is kept.
        loudness_classes: Number of loudness classes, drawn with equal probability. They divide the
            range between the quietest (at least -60 dBFS) and the loudest crop of a stem into
            intervals of equal width in dB. With 1, all starts are equally probable.
        augmentations: Augmentations of the stems of training examples, in order.
        validation_tracks: Names of the training tracks used for validation; by default the tracks
            in the folder ``valid``, else the official 14 of MUSDB18, else every seventh track.
        validation_crops_per_track: Number of fixed crops of each validation track for ``val/loss``.
        predict_paths: Audio files or folders to separate with ``predict``; by default the
            validation tracks.
        download: Download the free seven-second preview of MUSDB18 into ``root`` (by default
            ``~/MUSDB18/MUSDB18-7``).
        num_workers: Number of worker processes of each rank and data loader; 0 loads in the main
            process.
        int16_to_device: Move 16-bit samples to the device and convert them there, which halves the
            amount of data transferred. All training files must be 16-bit and have
            ``audio_channels`` channels.
        seed: Seed of the training examples. The command line sets it to ``seed_everything`` by
            default; in Python the default is 0.

    Attributes:
        positions: (epoch, index) of each example in this rank's current training batch.
        batches_of_checkpoint: Number of batches in an epoch when the checkpoint was saved from
            which the run resumes; else None.
        start: Epoch and batch at which the stream starts or resumes.
    """

    def __init__(
        self,
        root: dict[str, float] | str | None = None,
        sources: list[str] | dict[str, list[str]] = list(STEMS),  # noqa: B006 (shown in --help)
        stems: list[str] = list(STEMS),  # noqa: B006
        missing_as_silence: bool = False,
        missing_as_unknown: bool = False,
        sample_rate: int = 44100,
        audio_channels: int = 2,
        segment_seconds: float = 6.0,
        segment_curriculum: dict[int, float] | None = None,
        batch_size: int = 16,
        examples_per_epoch: int | None = None,
        mix_probability: float = 0.5,
        avoid_silence_db: float | None = None,
        silence_tries: int = 10,
        loudness_classes: int = 1,
        augmentations: list[Augmentation] | None = None,
        validation_tracks: list[str] | None = None,
        validation_crops_per_track: int = 8,
        predict_paths: list[str] | None = None,
        download: bool = False,
        num_workers: int = 1,
        int16_to_device: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.grouping = SourceGrouping(grouping(sources, stems), audio_channels, stems)
        self.roots = DatasetRoots(
            root,
            download,
            self.grouping,
            missing_as_silence,
            missing_as_unknown,
            validation_tracks,
        )
        self.sample_rate = sample_rate
        self.segment_samples = round(segment_seconds * sample_rate)
        self.crop_lengths = crop_lengths(segment_curriculum, segment_seconds, sample_rate)
        self.sampling = SamplingConfig(
            mix_probability, avoid_silence_db, silence_tries, loudness_classes
        )
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("validation_crops_per_track", validation_crops_per_track, 1),
            ("examples_per_epoch", examples_per_epoch, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < least:
                raise DataError(f"{name} is {value}: it must be at least {least}")
        if not _LOWEST_HZ <= sample_rate <= _HIGHEST_HZ:
            raise DataError(
                f"sample_rate is {sample_rate}: give a number from {_LOWEST_HZ} to {_HIGHEST_HZ} Hz"
            )
        self.batch_size = batch_size
        self.examples_per_epoch = examples_per_epoch
        self.augmentations = list(augmentations or [])
        for augmentation in self.augmentations:
            augmentation.sample_rate = sample_rate
            augmentation.check_sample_rate()
        self.validation_crops_per_track = validation_crops_per_track
        self.predict_paths = predict_paths
        self.num_workers = num_workers
        self.int16_to_device = int16_to_device
        self.seed = seed or 0
        self.train_tracks: list[Track] = []
        self.valid_tracks: list[Track] = []
        self._valid_crops: list[Track] = []  # the same at the model's rate
        self.test_tracks: list[Track] = []
        self.predict_files: list[SongFile] = []
        self.positions: list[Position] = []
        self.batches_of_checkpoint: int | None = None
        self._root_sizes: list[int] = []  # number of training tracks of each root
        self._stems = list(stems)  # those of training examples: also the remainder, if there is one
        self._known: npt.NDArray[np.bool_] | None = None  # known_stems, if any is unknown
        self._loudness: list[Powers] = []
        self.start: Position = (0, 0)
        self._loaded_batches = 0
        self._since = [0, 0]

    # ---------------------------------------------------------------- tracks

    def prepare_data(self) -> None:
        """Download, synthesise, decode or resample missing files; called once per node."""
        if self.roots.download or not self.predict_paths:
            self.roots.fetch()
        if self.trainer is not None and self.trainer.state.fn is not None:
            # Decode into the cache here, or every process of the node would decode the same files.
            self.setup(self.trainer.state.fn.value)

    def setup(self, stage: str) -> None:
        """Index and check the tracks of a stage.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            DataError: A track or a setting is invalid.
        """
        with collector_paused():  # takes a third off the start with 100,000 tracks
            self._setup(stage)

    def _setup(self, stage: str) -> None:
        if stage == "predict" and self.predict_paths:
            found = find_audio_files(self.predict_paths, progress=self._is_first())
            raise_faults([*found.faults.values()])
            self.predict_files = list(found.songs)
            return
        if stage == "test":
            if not self.test_tracks:
                self.test_tracks = self.roots.test_tracks(self._is_first())
        elif not self.valid_tracks:
            by_root, self.valid_tracks = self.roots.fit_tracks(self._is_first())
            self._root_sizes = [len(tracks) for tracks in by_root]
            training = [track for tracks in by_root for track in tracks]
            training = add_remainders(training, self._is_first())
            if any(REMAINDER in track.stems for track in training):
                self._stems = [*self.grouping.stems, REMAINDER]
            if any(track.unknown for track in training):
                self._known = known_stems(training, self._stems)
            at_rate = resample_tracks(
                [*training, *self.valid_tracks], self.sample_rate, self._is_first()
            )
            self.train_tracks, self._valid_crops = (
                at_rate[: len(training)],
                at_rate[len(training) :],
            )
        if stage == "fit":
            ranks = self._rank_and_world_size()[1]
            check_batch_size(self.batch_size, ranks, self._accumulated(), self.examples())
            longest = max(track.samples for track in self.train_tracks)
            if self.segment_samples > 2 * longest:
                raise DataError(
                    f"segment_seconds is {self.segment_samples / self.sample_rate:g}, and the "
                    f"longest training track has {longest / self.sample_rate:.1f} s: crops would "
                    "be mostly silence; lower --data.init_args.segment_seconds"
                )
            check_drawing(self.train_tracks, self.sampling.mix_probability, self.augmentations)
            self.train_tracks = make_mappable(self.train_tracks, self._is_first())
            if self.sampling.needs_loudness:
                self._loudness = measure_loudness(self.train_tracks, self._stems, self._is_first())

    def _is_first(self) -> bool:
        return self.trainer is None or self.trainer.is_global_zero

    def _accumulated(self) -> int:
        """Number of batches that make up the global batch of one optimiser step."""
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def examples(self) -> int:
        """Number of examples in an epoch."""
        if self.examples_per_epoch is not None:
            return self.examples_per_epoch
        return segments(self.train_tracks, self.segment_samples, self.grouping.stems)

    # --------------------------------------------------------------- loaders

    def train_dataloader(self) -> DataLoader[Any]:
        """Random crops of the training tracks: this rank's part of each global batch."""
        rank, ranks = self._rank_and_world_size()
        # Drop the incomplete last step, also with gradient accumulation.
        examples = self.examples() // self.batch_size * self.batch_size
        batch_size = self.batch_size // self._accumulated()
        self._sampler = self._crop_sampler()
        crops = TrainingCrops(
            self.train_tracks,
            replace(self.grouping, stems=self._stems),
            self._sampler,
            self.crop_lengths,
            self._fused_augmentations(),
            self.int16_to_device,
            len(self._stems) - len(self.grouping.stems),
        )
        sampler = ExampleSampler(examples, batch_size, rank, ranks, *self.start)
        self._ring = RingLoader(crops, sampler, self.num_workers)
        return self._ring

    def _crop_sampler(self) -> CropSampler:
        return crop_sampler(
            self.seed,
            self.sampling,
            self.train_tracks,
            self._root_sizes,
            self.roots.weights,
            self._stems,
            self._loudness,
        )

    def _fused_augmentations(self) -> list[FusedAugmentation]:
        """Leading augmentations, which the loader applies while it converts samples."""
        fused: list[FusedAugmentation] = []
        for augmentation in self.augmentations:
            if self.int16_to_device or not isinstance(augmentation, FusedAugmentation):
                break
            fused.append(augmentation)
        return fused

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Two loaders: fixed crops for ``val/loss``, and whole tracks for the scores."""
        crops = ValidationCrops(
            self._valid_crops, self.grouping, self.segment_samples, self.validation_crops_per_track
        )
        batch_size = max(1, self.batch_size // self._rank_and_world_size()[1])
        return [
            self._loader(crops, sampler=self._rank_items(len(crops)), batch_size=batch_size),
            self._tracks_loader(self.valid_tracks),
        ]

    def test_dataloader(self) -> DataLoader[Any]:
        """Whole test tracks."""
        return self._tracks_loader(self.test_tracks)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Paths of the files to separate, or whole validation tracks, one at a time."""
        if not self.predict_files:
            return self._tracks_loader(self.valid_tracks)
        items = self._rank_items(len(self.predict_files))
        return DataLoader(self.predict_files, sampler=items, batch_size=None)  # type: ignore[arg-type]

    def _tracks_loader(self, tracks: Sequence[Track]) -> DataLoader[Any]:
        """Whole tracks, distributed over the ranks; a rank without a track repeats one."""
        rank, ranks = self._rank_and_world_size()
        indices = share_by_length([track.samples for track in tracks], ranks)[rank]
        return self._loader(WholeTracks(tracks, self.grouping), sampler=indices, batch_size=None)

    def _rank_items(self, items: int) -> range:
        """Indices of this rank's items, round-robin; a rank without an item repeats one."""
        rank, ranks = self._rank_and_world_size()
        return range(rank % items, items, ranks)  # Lightning requires data on every rank

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: Dataset[Any], **arguments: Any) -> DataLoader[Any]:
        return WorkerLoader(
            dataset,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=ignore_signals,
            **arguments,
        )

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch; the ring loader reuses its slot after this copy has finished."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, StemBatch) and device.type == "cuda":
            self._ring.record_copy(batch.stems)
        return moved

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment the stems, sum them to mixture and sources; training batches only."""
        if isinstance(batch, PartialCrops):
            return PartialBatch(*batch)
        if not isinstance(batch, StemBatch):
            return batch
        stems, positions = batch
        if stems.dtype == torch.int16:
            stems = stems.transpose(-1, -2).float() / 2**15  # (B, stems, T, C) -> (B, stems, C, T)
        self.positions = [(epoch, index) for epoch, index in positions.tolist()]
        count = len(self.grouping.stems)
        stems, remainder = stems[:, :count], stems[:, count:]
        fused = len(self._fused_augmentations())
        for number, augmentation in enumerate(self.augmentations[fused:], AUGMENTATION + fused):
            stems = augmentation.augment(stems, self.seed, number, self.positions)
        # The mixture is the sum of all stems, including those that belong to no source.
        mixture, targets = stems.sum(1), self.grouping.group(stems)
        if self._known is None:
            return Batch(mixture, targets)
        known = known_in_examples(self._sampler, self._known, self.positions)
        sources = self.grouping.known(torch.from_numpy(known[:, :count])).to(targets.device)
        return PartialBatch(mixture + remainder.sum(1), targets, sources)

    # ---------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Position in the training data.

        ``batches`` were processed in all, and ``batches_per_epoch`` are in an epoch, from the epoch
        and the batch of ``since`` on; before, epochs had another number.
        """
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        position = {
            "batches": progress.total.processed,  # type: ignore[attr-defined]
            "batches_per_epoch": self.trainer.num_training_batches,
        }
        if self.batches_of_checkpoint not in (None, self.trainer.num_training_batches):
            return {**position, "since": [self.start[0], self._loaded_batches]}
        return {**position, "since": self._since} if any(self._since) else position

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume training with the first batch that was not processed."""
        self._loaded_batches = state_dict["batches"]
        self.batches_of_checkpoint = state_dict["batches_per_epoch"]
        self._since = list(state_dict.get("since", (0, 0)))
        self.start = start_of(state_dict)
        # Lightning's warning does not apply: the stream resumes from its position.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")


def start_of(state: Mapping[str, Any]) -> Position:
    """Epoch and batch at which a run resumes from the state of a data module."""
    epoch, batches = state.get("since", (0, 0))
    epochs, batch = divmod(state["batches"] - batches, state["batches_per_epoch"])
    return epoch + epochs, batch
