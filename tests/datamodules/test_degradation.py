"""Degraded music: degraded inputs, clean targets, fixed validation and test data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.augmentations.base import Augmentation
from datamodules.augmentations.noise import ColouredNoise, RecordedNoise
from datamodules.augmentations.rooms import DecayingNoise, RecordedRoom, ShoeboxRoom
from datamodules.augmentations.simple import Gain, Polarity
from datamodules.batches import Batch, TrackBatch
from datamodules.degradation import DegradedMUSDBDataModule, Degrader
from datamodules.musdb import MUSDBDataModule
from tests.helpers.tracks import STEMS

TEST_DATA = os.environ.get("STEMLAB_TEST_DATA")
RATE = 44100
MUSIC = {"music": list(STEMS)}
SMALL: dict[str, Any] = {
    "segment_seconds": 0.5,
    "batch_size": 4,
    "examples_per_epoch": 8,
    "validation_crops_per_track": 2,
    "num_workers": 0,
    "seed": 3,
}


def data(root: Path, degradations: list[Augmentation] | None = None, **arguments: Any) -> Any:
    settings = {"root": str(root), "sources": MUSIC, **SMALL, **arguments}
    module = DegradedMUSDBDataModule(degradations, **settings)
    module.setup("fit")
    return module


def training_batches(module: MUSDBDataModule) -> list[Batch]:
    return [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]


def music(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def snr_db(clean: Tensor, noisy: Tensor) -> float:
    return float(10 * torch.log10(clean.square().sum() / (noisy - clean).square().sum()))


# ---------------------------------------------------------------------- training


def test_mixtures_are_degraded_and_targets_stay_clean(musdb_root: Path) -> None:
    settings: dict[str, Any] = {"root": str(musdb_root), "sources": MUSIC, **SMALL}
    plain = MUSDBDataModule(**settings)
    plain.setup("fit")
    noise = ColouredNoise(10.0, 10.0)
    for clean, degraded in zip(
        training_batches(plain), training_batches(data(musdb_root, [noise])), strict=True
    ):
        assert torch.equal(degraded.targets, clean.targets)
        for before, after in zip(clean.mixture, degraded.mixture, strict=True):
            assert snr_db(before, after) == pytest.approx(10, abs=0.01)


def test_several_sources_of_degraded_mixtures(musdb_root: Path) -> None:
    for batch in training_batches(data(musdb_root, sources=["vocals", "bass"])):
        assert batch.targets.shape == (4, 2, 2, RATE // 2)
        assert batch.mixture.shape == (4, 2, RATE // 2)
        assert batch.mixture.isfinite().all()


def test_degradation_depends_on_seed_epoch_and_index_only() -> None:
    degrader = Degrader([DecayingNoise(), ColouredNoise()], 7)
    batch = Batch(music(1, 2, 4000).expand(5, -1, -1), music(5, 1, 2, 4000))
    positions = [(0, 0), (0, 1), (1, 0), (0, 0), (2, 5)]
    found = degrader.training(batch, positions).mixture
    assert torch.equal(found[0], found[3])
    for first, second in ((0, 1), (0, 2), (1, 2), (0, 4)):
        assert not torch.allclose(found[first], found[second], atol=1e-3)
    alone = degrader.training(Batch(batch.mixture[4:], batch.targets[4:]), positions[4:]).mixture
    assert torch.allclose(alone[0], found[4], atol=1e-6)
    again = Degrader([DecayingNoise(), ColouredNoise()], 7).training(batch, positions).mixture
    assert torch.equal(again, found)
    other = Degrader([DecayingNoise(), ColouredNoise()], 8).training(batch, positions).mixture
    assert not torch.allclose(other, found, atol=1e-3)


def test_two_degradations_of_one_class_are_independent() -> None:
    batch = Batch(music(1, 2, 4000), music(1, 1, 2, 4000))
    one, two = (
        Degrader([ColouredNoise(6.0, 6.0, 0.0, 0.0)] * count, 0).training(batch, [(0, 0)]).mixture
        for count in (1, 2)
    )
    # The second ratio refers to the noisy mixture; the same noise twice would give 0 dB.
    both = 0.25 * (1 + 1.25)
    assert snr_db(batch.mixture, one) == pytest.approx(6, abs=0.1)
    assert snr_db(batch.mixture, two) == pytest.approx(-10 * np.log10(both), abs=0.3)


def test_loud_examples_are_attenuated_and_quiet_ones_are_not() -> None:
    mixture = torch.stack([music(2, 4000), 20 * music(2, 4000)])
    targets = music(2, 3, 2, 4000)
    found = Degrader([Polarity(1.0)], 0).training(Batch(mixture, targets), [(0, 0), (0, 1)])
    assert torch.equal(found.mixture[0], -mixture[0])
    assert torch.equal(found.targets[0], targets[0])
    assert float(found.mixture[1].abs().max()) == pytest.approx(1 - 2**-15, rel=1e-6)
    factor = (1 - 2**-15) / mixture[1].abs().max()
    assert torch.allclose(found.targets[1], factor * targets[1])
    assert torch.allclose(found.mixture[1], -factor * mixture[1])


def test_silence_stays_silent() -> None:
    silence = Batch(torch.zeros(1, 2, 3000), torch.zeros(1, 1, 2, 3000))
    found = Degrader([ShoeboxRoom(), ColouredNoise()], 0).training(silence, [(0, 0)])
    assert not found.mixture.any()
    assert not found.targets.any()


def test_without_degradations_mixtures_stay_clean(musdb_root: Path) -> None:
    batch = training_batches(data(musdb_root, []))[0]
    assert torch.allclose(batch.mixture, batch.targets[:, 0], atol=1e-6)


# --------------------------------------------------------- validation and test


def test_validation_and_test_data_are_fixed(musdb_root: Path) -> None:
    module = data(musdb_root)
    crops, tracks = module.val_dataloader()
    first, second = next(iter(crops)), next(iter(module.val_dataloader()[0]))
    assert torch.equal(first.mixture, second.mixture)
    assert module.on_after_batch_transfer(first, 0) is first, "it is not degraded twice"
    assert (len(crops.dataset), len(tracks.dataset)) == (2, 1)
    (track,) = list(tracks)
    assert isinstance(track, TrackBatch)
    assert track.name == "Actions - One Minute Smile"
    (again,) = list(data(musdb_root, validation_tracks=[track.name]).val_dataloader()[1])
    assert torch.equal(again.mixture, track.mixture)
    clean = module.grouping.read(module.valid_tracks[0])
    assert torch.allclose(track.targets / track.targets.abs().max(), clean.targets
                          / clean.targets.abs().max(), atol=1e-6)  # fmt: skip
    assert snr_db(track.targets[0], track.mixture) < 20

    (other,) = list(data(musdb_root, seed=4).val_dataloader()[1])
    assert not torch.allclose(other.mixture, track.mixture, atol=1e-3)
    module.setup("test")
    (test,) = list(module.test_dataloader())
    assert test.name == "Test - Song"
    assert not torch.allclose(test.mixture, test.targets[0], atol=1e-2)


def test_crops_of_a_track_are_degraded_independently() -> None:
    degrader = Degrader([ColouredNoise()], 0)
    crop = Batch(music(2, 4000), music(1, 2, 4000))
    places = (("a", 0), ("a", 9), ("b", 0))
    found = {place: degrader.fixed(crop, *place, 44100).mixture for place in places}
    assert torch.equal(degrader.fixed(crop, "a", 0, 44100).mixture, found["a", 0])
    assert not torch.allclose(found["a", 0], found["a", 9], atol=1e-3)
    assert not torch.allclose(found["a", 0], found["b", 0], atol=1e-3)
    trained = degrader.training(Batch(crop.mixture[None], crop.targets[None]), [(0, 0)])
    assert not torch.allclose(trained.mixture[0], found["a", 0], atol=1e-3)


def test_files_to_predict_are_not_degraded(musdb_root: Path) -> None:
    song = musdb_root / "test/Test - Song/mixture.wav"
    module = DegradedMUSDBDataModule(
        root=str(musdb_root), sources=MUSIC, predict_paths=[str(song)], **SMALL
    )
    module.setup("predict")
    assert [found.path for found in module.predict_dataloader()] == [song]


def test_workers_give_the_same_validation_data(musdb_root: Path) -> None:
    alone, workers = (data(musdb_root, num_workers=number) for number in (0, 1))
    for one, other in zip(alone.val_dataloader(), workers.val_dataloader(), strict=True):
        for first, second in zip(one, other, strict=True):
            # Up to rounding: a worker has one thread.
            assert torch.allclose(first.mixture, second.mixture, atol=1e-5)


# ---------------------------------------------------------------------- settings


def test_degradations_get_the_sample_rate_of_the_music(musdb_root: Path) -> None:
    room = DecayingNoise(0.5, 0.5)
    DegradedMUSDBDataModule([room], root=str(musdb_root), sample_rate=22050)
    assert room.max_samples() == 1 + 11025


def test_probabilities_per_stem_are_refused() -> None:
    with pytest.raises(ValueError, match="number of stems is 1"):
        DegradedMUSDBDataModule([Gain(probability={"vocals": 0.5})])


@pytest.mark.slow
@pytest.mark.skipif(not TEST_DATA, reason="STEMLAB_TEST_DATA is not set")
def test_real_rooms_and_noise_on_real_music() -> None:
    degradations: list[Augmentation] = [
        RecordedRoom(f"{TEST_DATA}/impulse_responses"),
        RecordedNoise(f"{TEST_DATA}/noise", 5.0, 5.0, probability=1.0),
    ]
    module = data(Path(f"{TEST_DATA}/music"), degradations, validation_tracks=None)
    for batch in training_batches(module):
        assert batch.mixture.isfinite().all()
        assert batch.mixture.abs().max() <= 1
    item = next(iter(module.val_dataloader()[1]))
    assert item.mixture.shape == item.targets.shape[1:]
    assert item.mixture.abs().max() <= 1
    # A plate without dry signal preserves little of the waveform.
    assert snr_db(item.targets[0], item.mixture) < 5
