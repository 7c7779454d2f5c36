"""MUSDB18, MUSDB18-HQ or any folder of their layout, as a LightningDataModule."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import warnings
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentations.base import Augmentation, FusedAugmentation
from datamodules.batches import Batch, StemBatch
from datamodules.errors import DataError
from datamodules.files.find import find_audio_files
from datamodules.randomness import Position
from datamodules.roots import DatasetRoots
from datamodules.stream.crops import CropSampler, SamplingConfig
from datamodules.stream.curriculum import crop_lengths
from datamodules.stream.datasets import TrainingCrops, ValidationCrops, WholeTracks
from datamodules.stream.loudness import Powers, measure_loudness
from datamodules.stream.ring_loader import RingLoader
from datamodules.stream.sampler import ExampleSampler, share_by_length
from datamodules.tracks.index import (
    Track,
)
from datamodules.tracks.layouts import STEMS
from datamodules.tracks.preparation import make_mappable
from datamodules.tracks.sources import SourceGrouping, grouping


class MUSDBDataModule(LightningDataModule):
    """Random crops of MUSDB18 for training, whole tracks for scoring.

    Args:
        root: Folder with ``train`` and ``test``, each holding a folder of WAV,
            FLAC or Ogg stems per track, or ``.stem.mp4`` files; or DSD100; or a
            folder of such tracks alone, which all train. Without it the
            environment variable ``MUSDB_PATH`` counts, and without that the
            embedded corpus is rendered. Several are mixed by weight, as in
            ``{/data/musdb18hq: 1.0, /data/extra: 0.5}``: of three stems two come from
            the first. The first one validates and tests; the others' training tracks
            all train, but for those that are named as a track that validates.
        sources: What the model separates: names of stems, or names of sources
            each with the stems that it sums, as in
            ``{vocals: [vocals], accompaniment: [drums, bass, other]}``.
        stems: Names of the stems that every track of the data set has; the
            mixture of a training example is the sum of all of them.
        missing_as_silence: Take a stem without a file as silence, instead of
            refusing the track.
        sample_rate: Sample rate of all that is handed out, Hz; tracks that have
            another are resampled once, into the cache.
        audio_channels: 1 averages the channels, 2 repeats a mono track.
        segment_seconds: Length of a training crop, seconds.
        segment_curriculum: Shorter crops at first: epoch -> length from there on,
            seconds, as in ``{0: 1.0, 10: 3.0}``. Nothing else changes, not even the
            number of examples in an epoch.
        batch_size: Examples per step over all ranks together.
        examples_per_epoch: Examples in an epoch; by default as many segments as
            the training tracks hold, so that an epoch hears as much music as
            there is.
        mix_probability: Probability that the stems of an example come from
            different tracks.
        avoid_silence_db: Draw another start where a stem's crop has a level below this,
            dBFS, such as -60. Stems from one place are silent together or not at all.
        silence_tries: Starts drawn at most; the last one counts.
        loudness_classes: Draw loud and quiet places of a stem equally often: its crops'
            levels in dB, from the quietest (not below -60 dBFS) to the loudest, are cut
            into so many classes of equal width, and each that holds any has the same
            chance. 1 makes all places equally probable.
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
        int16_to_device: Move 16-bit samples and convert them on the device: half the
            traffic. All training files must be 16-bit, with ``audio_channels`` channels.
        seed: Seed of the stream of examples; by default ``seed_everything``'s.

    Attributes:
        positions: Epoch and index of each example of the training batch at hand, on this rank.
    """

    def __init__(
        self,
        root: dict[str, float] | str | None = None,
        sources: list[str] | dict[str, list[str]] = list(STEMS),  # noqa: B006 (shown in --help)
        stems: list[str] = list(STEMS),  # noqa: B006
        missing_as_silence: bool = False,
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
            root, download, self.grouping, missing_as_silence, sample_rate, validation_tracks
        )
        self.sample_rate = sample_rate
        self.segment_samples = round(segment_seconds * sample_rate)
        self.crop_lengths = crop_lengths(segment_curriculum, segment_seconds, sample_rate)
        self.drawing_rules = SamplingConfig(
            mix_probability, avoid_silence_db, silence_tries, loudness_classes
        )
        if min(batch_size, validation_crops_per_track, examples_per_epoch or 1) < 1:
            raise DataError(
                f"batch_size is {batch_size}, validation_crops_per_track "
                f"{validation_crops_per_track}, examples_per_epoch {examples_per_epoch}: give "
                "numbers from 1 on"
            )
        if num_workers < 0 or sample_rate < 1:
            raise DataError(
                f"num_workers is {num_workers} and sample_rate {sample_rate}: give 0 or more "
                "reading processes and a rate above 0 Hz"
            )
        self.batch_size = batch_size
        self.examples_per_epoch = examples_per_epoch
        self.augmentations = nn.ModuleList(augmentations or [])
        for augmentation in augmentations or []:
            augmentation.sample_rate = sample_rate
        self.validation_crops_per_track = validation_crops_per_track
        self.predict_paths = predict_paths
        self.num_workers = num_workers
        self.int16_to_device = int16_to_device
        self.seed = seed or 0
        self.train_tracks: list[Track] = []
        self.valid_tracks: list[Track] = []
        self.test_tracks: list[Track] = []
        self.songs: list[Path] = []
        # How many of the training tracks each root has, and how loud they are.
        self._root_sizes: list[int] = []
        self._loudness: list[Powers] = []
        self.positions: list[Position] = []
        # Epoch and batch at which the training stream begins; a checkpoint moves it.
        self._begin: Position = (0, 0)

    # ---------------------------------------------------------------- tracks

    def prepare_data(self) -> None:
        """Render, download, decode or resample what is not there yet (one process per node)."""
        if self.roots.download or not self.predict_paths:
            self.roots.fetch()
        if self.trainer is not None and self.trainer.state.fn is not None:
            # Other processes of the node then find it done; without this they would do it.
            self.setup(self.trainer.state.fn.value)

    def setup(self, stage: str) -> None:
        """Index the tracks that a stage needs; every fault in them is reported here.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            DataError: The data cannot be trained on as they are.
        """
        if stage == "predict" and self.predict_paths:
            self.songs = list(find_audio_files(self.predict_paths))
            return
        if stage == "test":
            if not self.test_tracks:
                self.test_tracks = self.roots.test_tracks(self._is_first())
        elif not self.valid_tracks:
            by_root, self.valid_tracks = self.roots.fit_tracks(self._is_first())
            self._root_sizes = [len(tracks) for tracks in by_root]
            self.train_tracks = [track for tracks in by_root for track in tracks]
        if stage == "fit":
            self._check_batch_size()
            self.train_tracks = make_mappable(self.train_tracks, self._is_first())
            if self.drawing_rules.need_loudness:
                self._loudness = measure_loudness(
                    self.train_tracks, self.grouping.stems, self._is_first()
                )

    def _is_first(self) -> bool:
        return self.trainer is None or self.trainer.is_global_zero

    def _check_batch_size(self) -> None:
        ranks = self.trainer.world_size if self.trainer else 1
        accumulated = self._accumulated()
        parts = ranks * accumulated
        if self.batch_size % parts:
            below = self.batch_size // parts * parts
            valid = [size for size in (below, below + parts) if size > 0]
            times = f" times {accumulated} accumulated batches" if accumulated > 1 else ""
            raise DataError(
                f"batch_size is {self.batch_size}, the global batch, and cannot be shared out "
                f"over {ranks} ranks{times}; nearest that can: {' or '.join(map(str, valid))}"
            )
        if self.batch_size > self.examples():
            raise DataError(
                f"batch_size {self.batch_size} is larger than the epoch's {self.examples()} "
                f"examples ({len(self.train_tracks)} training tracks); lower "
                "--data.init_args.batch_size or set --data.init_args.examples_per_epoch"
            )

    def _accumulated(self) -> int:
        """Batches whose gradients make one step of the optimiser: together the global batch."""
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def examples(self) -> int:
        """Number of examples in an epoch."""
        if self.examples_per_epoch is not None:
            return self.examples_per_epoch
        return sum(max(1, track.samples // self.segment_samples) for track in self.train_tracks)

    # --------------------------------------------------------------- loaders

    def train_dataloader(self) -> DataLoader[Any]:
        """Random crops of the training tracks, a share of each global batch."""
        rank, ranks = self._rank_and_world_size()
        # Whole steps only, whatever the number of batches that a step is accumulated from.
        examples = self.examples() // self.batch_size * self.batch_size
        part = self.batch_size // self._accumulated()
        sampler = ExampleSampler(examples, part, rank, ranks, *self._begin)
        crops = TrainingCrops(
            self.train_tracks,
            self.grouping,
            self._draw(),
            self.crop_lengths,
            self._fused_augmentations(),
            self.int16_to_device,
        )
        self._ring = RingLoader(
            crops.fill,
            crops.shape,
            crops.dtype,
            sampler,
            self.num_workers,
            _ignore_signals,
            crops.shape_at,
        )
        return self._ring

    def _draw(self) -> CropSampler:
        lengths = np.array([track.samples for track in self.train_tracks])
        return CropSampler(
            self.seed,
            self.drawing_rules,
            len(self.grouping.stems),
            np.split(lengths, np.cumsum(self._root_sizes)[:-1]),
            self.roots.weights,
            self._loudness,
            self.sample_rate,
        )

    def _fused_augmentations(self) -> list[FusedAugmentation]:
        """The first augmentations, as far as the loader does them in passing."""
        if self.int16_to_device:
            return []
        first = takewhile(lambda each: isinstance(each, FusedAugmentation), self.augmentations)
        return [cast(FusedAugmentation, augmentation) for augmentation in first]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Fixed crops for the loss, and whole tracks for the scores."""
        share = max(1, self.batch_size // self._rank_and_world_size()[1])
        crops = ValidationCrops(
            self.valid_tracks,
            self.grouping,
            self.segment_samples,
            self.validation_crops_per_track,
        )
        return [
            self._loader(crops, sampler=self._rank_items(len(crops)), batch_size=share),
            self._tracks_loader(self.valid_tracks),
        ]

    def test_dataloader(self) -> DataLoader[Any]:
        """Whole test tracks."""
        return self._tracks_loader(self.test_tracks)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Whole validation tracks, or the files to separate, one at a time."""
        if self.songs:
            return DataLoader(
                self.songs,  # type: ignore[arg-type]
                sampler=self._rank_items(len(self.songs)),
                batch_size=None,
            )
        return self._tracks_loader(self.valid_tracks)

    def _tracks_loader(self, tracks: Sequence[Track]) -> DataLoader[Any]:
        """Whole tracks; one that two ranks have counts once, as scores are gathered by name."""
        rank, ranks = self._rank_and_world_size()
        mine = share_by_length([track.samples for track in tracks], ranks)[rank]
        return self._loader(WholeTracks(tracks, self.grouping), sampler=mine, batch_size=None)

    def _rank_items(self, items: int) -> range:
        """Numbers of this rank's items, which take equally long: each once over all ranks.

        A rank beyond the last item repeats one, because Lightning wants work for every rank.
        """
        rank, ranks = self._rank_and_world_size()
        return range(rank % items if rank >= items else rank, items, ranks)

    def _rank_and_world_size(self) -> tuple[int, int]:
        """Number of this rank, and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, dataset: Dataset[Any], **arguments: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_ignore_signals,
            **arguments,
        )

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch, and have the ring wait for the copy before it fills the slot again."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, StemBatch) and device.type == "cuda":
            self._ring.copied(batch.stems)
        return moved

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment, then mix, then group: training examples only."""
        if not isinstance(batch, StemBatch):
            return batch
        stems, positions = batch
        if stems.dtype == torch.int16:
            # As the files have them: (B, stems, T, C) -> (B, stems, C, T).
            stems = stems.transpose(-1, -2).float() / 2**15
        self.positions = [(epoch, index) for epoch, index in positions.tolist()]
        count = stems.shape[1]
        for number in range(len(self._fused_augmentations()), len(self.augmentations)):
            augmentation = cast(Augmentation, self.augmentations[number])
            parameters = np.stack(
                [augmentation.draw_at(self.seed, number, place, count) for place in self.positions]
            )
            stems = augmentation(stems, torch.from_numpy(parameters))
        # All stems are in the mixture, also those that no source of the model holds.
        return Batch(mixture=stems.sum(1), targets=self.grouping.group(stems))

    # ---------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Tell where the stream stands: batches processed, and how many make an epoch."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {
            "batches": progress.total.processed,  # type: ignore[attr-defined]
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


@atexit.register
def _end_workers() -> None:
    """End workers that something still holds at exit, as a stopped run's traceback may.

    Python sends them SIGTERM then, which they leave to the main process, and waits for ever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an alarm
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _ignore_signals(worker: int) -> None:
    """Leave Ctrl-C and SLURM's signals to the main process, which stops the workers in time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
