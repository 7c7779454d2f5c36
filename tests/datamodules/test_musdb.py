"""The data module: batches for training, validation, test and prediction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from datamodules import roots
from datamodules.augmentations.simple import ChannelSwap, Gain, Mono, Polarity
from datamodules.batches import Batch, StemBatch, TrackBatch
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from tests.helpers.tracks import STEMS, write_track


def module(root: Path | dict[str, float], stage: str = "fit", **arguments: Any) -> MUSDBDataModule:
    settings = {
        "segment_seconds": 0.5,
        "batch_size": 4,
        "examples_per_epoch": 16,
        "num_workers": 0,
        **arguments,
    }
    data = MUSDBDataModule(root=root if isinstance(root, dict) else str(root), **settings)
    data.setup(stage)
    return data


def train_batches(data: MUSDBDataModule) -> list[Batch]:
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def test_training_batches_have_mixture_and_targets(musdb_root: Path) -> None:
    batches = train_batches(module(musdb_root))
    assert len(batches) == 4
    for batch in batches:
        assert batch.mixture.shape == (4, 2, 22050)
        assert batch.targets.shape == (4, 4, 2, 22050)
        assert batch.mixture.dtype == torch.float32
        assert torch.allclose(batch.targets.sum(1), batch.mixture, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mix_probability", [0.0, 1.0])
def test_crops_equal_the_files(musdb_root: Path, mix_probability: float) -> None:
    """Every stem of every example is found, bit by bit, in the file of some track."""
    data = module(musdb_root, mix_probability=mix_probability, segment_seconds=0.05)
    files = {
        stem: [
            soundfile.read(track.stems[stem], dtype="float32")[0].T for track in data.train_tracks
        ]
        for stem in STEMS
    }
    origins = []
    for stems, _ in data.train_dataloader():
        for example in stems.numpy():
            tracks = []
            for number, stem in enumerate(STEMS):
                crop = example[number]
                found = [
                    track
                    for track, audio in enumerate(files[stem])
                    for start in np.flatnonzero(audio[0, : -crop.shape[1]] == crop[0, 0])
                    if np.array_equal(audio[:, start : start + crop.shape[1]], crop)
                ]
                assert found, f"{stem} is in no file"
                tracks.append(found[0])
            origins.append(tuple(tracks))
    same = [len(set(origin)) == 1 for origin in origins]
    assert all(same) if mix_probability == 0 else not all(same)


def test_stream_does_not_depend_on_workers(musdb_root: Path) -> None:
    alone = module(musdb_root).train_dataloader()
    workers = module(musdb_root, num_workers=2).train_dataloader()
    for one, other in zip(alone, workers, strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.stems, other.stems)


@pytest.mark.slow
def test_no_example_is_repeated(musdb_root: Path) -> None:
    """Neither within an epoch nor in the next one."""
    loader = module(musdb_root, num_workers=2, examples_per_epoch=32).train_dataloader()
    seen = set()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        seen |= {example.numpy().tobytes() for batch in loader for example in batch.stems}
    assert len(seen) == 64


def test_writing_to_a_batch_does_not_change_later_batches(musdb_root: Path) -> None:
    for int16_to_device in (False, True):
        loader = module(musdb_root, int16_to_device=int16_to_device).train_dataloader()
        first = [batch.stems.clone() for batch in loader]
        for batch in loader:
            batch.stems.fill_(99)
        for before, batch in zip(first, loader, strict=True):
            assert torch.equal(before, batch.stems)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_has_the_announced_number_of_batches(musdb_root: Path, num_workers: int) -> None:
    data = module(
        musdb_root,
        num_workers=num_workers,
        examples_per_epoch=19,
        segment_curriculum={0: 0.1, 1: 0.5},
    )
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert len(list(loader)) == len(loader) == 4


def test_augmentation_depends_on_the_example_not_on_its_batch(musdb_root: Path) -> None:
    # Mono comes first, so that none is fused into reading.
    augmentations = [Mono(), Gain(), ChannelSwap(), Polarity()]
    data = module(musdb_root, augmentations=augmentations)
    stems, positions = next(iter(data.train_dataloader()))
    whole = data.on_after_batch_transfer(StemBatch(stems, positions), 0)
    part = data.on_after_batch_transfer(StemBatch(stems[2:], positions[2:]), 0)
    assert torch.equal(whole.mixture[2:], part.mixture)
    assert not torch.allclose(whole.mixture, stems.sum(1))
    assert torch.allclose(whole.targets.sum(1), whole.mixture, atol=1e-6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentations_fused_into_reading_give_the_same_result(
    musdb_root: Path, num_workers: int
) -> None:
    augmentations = [ChannelSwap(), Gain(), Polarity(), Mono(0.5), Gain(-3, 3)]
    reading = module(musdb_root, augmentations=augmentations, num_workers=num_workers)
    on_device = module(musdb_root, augmentations=augmentations, int16_to_device=True)
    read = reading.train_dataloader()
    plain = module(musdb_root).train_dataloader()
    for one, other, bare in zip(read, on_device.train_dataloader(), plain, strict=True):
        assert not torch.equal(one.stems, bare.stems)
        expected = on_device.on_after_batch_transfer(other, 0)
        augmented = reading.on_after_batch_transfer(one, 0)
        assert torch.equal(augmented.targets, expected.targets)
        assert torch.equal(augmented.mixture, expected.mixture)


def test_another_seed_gives_another_stream(musdb_root: Path) -> None:
    one, other = (next(iter(module(musdb_root, seed=seed).train_dataloader())) for seed in (0, 1))
    assert not torch.equal(one.stems, other.stems)


def test_mixture_holds_all_stems_for_any_grouping(musdb_root: Path) -> None:
    plain = train_batches(module(musdb_root))[0]
    groups = {"accompaniment": ["drums", "bass", "other"], "vocals": ["vocals"]}
    grouped = train_batches(module(musdb_root, sources=groups))[0]
    assert torch.equal(grouped.mixture, plain.mixture)
    assert torch.allclose(grouped.targets[:, 0], plain.targets[:, 1:].sum(1), atol=1e-6)
    vocals = train_batches(module(musdb_root, sources=["vocals"]))[0]
    assert torch.equal(vocals.mixture, plain.mixture)
    assert vocals.targets.shape[1] == 1


def test_validation_has_crops_and_whole_tracks(musdb_root: Path) -> None:
    data = module(musdb_root, validation_crops_per_track=3)
    crops, tracks = data.val_dataloader()
    batch = next(iter(crops))
    assert isinstance(batch, Batch)
    assert batch.mixture.shape == (3, 2, 22050)
    assert torch.equal(batch.mixture, next(iter(data.val_dataloader()[0])).mixture)
    track = next(iter(tracks))
    assert isinstance(track, TrackBatch)
    assert track.name == "Actions - One Minute Smile"
    mixture, _ = soundfile.read(
        musdb_root / "train" / track.name / "mixture.wav", dtype="float32", always_2d=True
    )
    assert np.array_equal(track.mixture.numpy(), mixture.T)
    assert track.targets.shape == (4, *track.mixture.shape)


def test_validation_uses_the_mixture_file(tmp_path: Path) -> None:
    for name in ("A - 1", "B - 2"):
        write_track(tmp_path / "train" / name)
        audio, rate = soundfile.read(tmp_path / "train" / name / "mixture.wav", dtype="int16")
        soundfile.write(tmp_path / "train" / name / "mixture.wav", audio // 2, rate)
    data = module(tmp_path)
    track = next(iter(data.val_dataloader()[1]))
    assert torch.allclose(track.mixture, track.targets.sum(0) / 2, atol=1e-4)
    batch = train_batches(data)[0]
    assert torch.allclose(batch.mixture, batch.targets.sum(1), atol=1e-6)


@pytest.mark.parametrize(("stored", "wanted"), [(2, 1), (1, 2)])
def test_channels_are_averaged_or_repeated(tmp_path: Path, stored: int, wanted: int) -> None:
    for name in ("A - 1", "B - 2"):
        write_track(tmp_path / "train" / name, channels=stored)
    data = module(tmp_path, audio_channels=wanted)
    track = next(iter(data.val_dataloader()[1]))
    audio, _ = soundfile.read(
        tmp_path / "train" / track.name / "bass.wav", dtype="float32", always_2d=True
    )
    expected = audio.T.mean(0, keepdims=True) if wanted == 1 else np.repeat(audio.T, 2, axis=0)
    assert np.array_equal(track.targets[2].numpy(), expected)
    batch = train_batches(data)[0]
    assert batch.mixture.shape[1] == wanted
    if wanted == 2:
        assert torch.equal(batch.mixture[:, 0], batch.mixture[:, 1])


def test_only_test_reads_the_test_subset(musdb_root: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(musdb_root / "train")
    for stage in ("fit", "validate", "predict"):
        module(tmp_path, stage)
    with pytest.raises(DataError, match="test"):
        module(tmp_path, "test")
    data = module(musdb_root, "test")
    assert [track.name for track in data.test_tracks] == ["Test - Song"]
    assert not data.train_tracks


def test_crops_longer_than_the_track_end_in_silence(musdb_root: Path) -> None:
    data = module(musdb_root, segment_seconds=5.0)
    batch = train_batches(data)[0]
    assert batch.mixture.shape[-1] == 5 * 44100
    assert batch.mixture[..., -30000:].abs().max() == 0
    assert next(iter(data.val_dataloader()[0])).mixture.shape[-1] == 5 * 44100


def test_epoch_covers_the_training_set_once_by_default(musdb_root: Path) -> None:
    data = module(musdb_root, examples_per_epoch=None)
    assert data.examples() == sum(int(track.seconds / 0.5) for track in data.train_tracks)


def test_embedded_corpus_is_used_without_a_root(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    monkeypatch.setattr(roots, "demo_corpus", lambda: musdb_root)
    with caplog.at_level(logging.INFO):
        data = MUSDBDataModule(batch_size=1)
        data.prepare_data()
        data.setup("fit")
    assert len(data.train_tracks) == 4
    lines = [line for line in caplog.messages if "demo corpus" in line]
    assert len(lines) == 1
    assert "MUSDB_PATH" in lines[0]


def test_root_overrides_the_environment(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSDB_PATH", str(tmp_path / "nothing"))
    assert module(musdb_root).train_tracks
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    data = MUSDBDataModule(batch_size=1)
    data.setup("fit")
    assert len(data.train_tracks) == 4
    with pytest.raises(DataError, match="segment_seconds"):
        MUSDBDataModule(segment_seconds=0)


def test_stream_resumes_from_its_state(musdb_root: Path) -> None:
    data = module(musdb_root)
    data.load_state_dict({"batches": 6, "batches_per_epoch": 4})
    positions = [batch.positions.tolist() for batch in data.train_dataloader()]
    assert positions == [[[1, 8 + 4 * k + i] for i in range(4)] for k in range(2)]


# --------------------------------------------------- sampling of crops


@pytest.mark.parametrize("int16_to_device", [False, True])
def test_crops_grow_with_the_curriculum(musdb_root: Path, int16_to_device: bool) -> None:
    settings: dict[str, Any] = {
        "segment_curriculum": {2: 0.25, 0: 0.1, 4: 0.5},
        "int16_to_device": int16_to_device,
        "mix_probability": 1.0,
    }
    data = module(musdb_root, **settings)
    loader = data.train_dataloader()
    epochs = []
    for epoch, samples in ((0, 4410), (1, 4410), (3, 11025), (4, 22050)):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
        assert len(batches) == 4
        assert {batch.targets.shape for batch in batches} == {(4, 4, 2, samples)}
        epochs.append(batches)
    # A run resumed in the middle of an epoch gets the same examples.
    resumed = module(musdb_root, num_workers=2, **settings)
    resumed.load_state_dict({"batches": 3 * 4 + 2, "batches_per_epoch": 4})
    for one, other in zip(epochs[2][2:], train_batches(resumed), strict=True):
        assert torch.equal(one.targets, other.targets)
    # From the last length on, the examples equal those without a curriculum.
    plain = module(musdb_root, int16_to_device=int16_to_device, mix_probability=1.0)
    plain.load_state_dict({"batches": 16, "batches_per_epoch": 4})
    for one, other in zip(epochs[3], train_batches(plain), strict=True):
        assert torch.equal(one.targets, other.targets)
    assert next(iter(data.val_dataloader()[0])).mixture.shape[-1] == 22050


def half_silent(root: Path) -> None:
    """Write three tracks of three seconds whose vocals begin after two."""
    for number in range(3):
        folder = root / "train" / f"A - {number}"
        write_track(folder, seed=number)
        audio, rate = soundfile.read(folder / "vocals.wav", dtype="int16")
        audio[: 2 * rate] = 0
        soundfile.write(folder / "vocals.wav", audio, rate)


def silent_share(data: MUSDBDataModule) -> float:
    stems = torch.cat([batch.stems.clone() for batch in data.train_dataloader()])
    assert not (stems[:, 1:].abs().amax((-1, -2)) == 0).any()
    return float((stems[:, 0].abs().amax((-1, -2)) == 0).float().mean())


@pytest.mark.slow
def test_silence_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    half_silent(tmp_path)
    settings: dict[str, Any] = {"examples_per_epoch": 200, "mix_probability": 1.0}
    assert silent_share(module(tmp_path, **settings)) > 0.4
    assert silent_share(module(tmp_path, **settings, avoid_silence_db=-60.0)) < 0.02
    assert silent_share(module(tmp_path, **settings, avoid_silence_db=-60.0, silence_tries=1)) > 0.4
    # Stems from one place are silent only together.
    aligned: dict[str, Any] = {**settings, "mix_probability": 0.0, "avoid_silence_db": -60.0}
    assert silent_share(module(tmp_path, **aligned)) > 0.4


@pytest.mark.slow
def test_loudness_classes_are_drawn_equally_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    half_silent(tmp_path)
    settings: dict[str, Any] = {"examples_per_epoch": 400, "mix_probability": 1.0}
    before = silent_share(module(tmp_path, **settings))
    assert before == pytest.approx(0.6, abs=0.07)  # 1.5 s of 2.5 s
    after = silent_share(module(tmp_path, **settings, loudness_classes=2))
    # One class, half of the draws, holds the crops of the silent seconds; those that start in a
    # second count as loud as its first one.
    assert 0.3 < after < 0.5


def test_roots_are_mixed_by_weight_and_the_first_is_for_validation(
    musdb_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        write_track(tmp_path / f"Extra - {number}", seed=50 + number)
    write_track(tmp_path / "Actions - One Minute Smile", seed=60)
    with caplog.at_level("INFO"):
        data = module({str(musdb_root): 3.0, str(tmp_path): 1}, examples_per_epoch=160)
    assert "3 more training tracks" in caplog.text
    assert "1 left out" in caplog.text
    assert [track.name for track in data.valid_tracks] == ["Actions - One Minute Smile"]
    assert data.valid_tracks[0].stems["vocals"].is_relative_to(musdb_root)
    assert len(data.train_tracks) == 4 + 3
    sampler = data._crop_sampler()
    for epoch in range(2):
        tracks = np.array([sampler.crop((epoch, index), 22050).tracks for index in range(160)])
        assert (tracks[:, 0] >= 4).sum() == 40
        assert np.allclose((tracks >= 4).mean(0), 0.25, atol=0.06)
    assert len(train_batches(data)) == 40
    data.setup("test")
    assert [track.name for track in data.test_tracks] == ["Test - Song"]


def test_invalid_roots_are_refused(musdb_root: Path, tmp_path: Path) -> None:
    for root, words in (
        ({}, "empty mapping"),
        ({"a": 0.0}, "weight of a is 0.0"),
        ({"a": 1.0, "b": float("nan")}, "weight of b is nan"),
    ):
        with pytest.raises(DataError, match=words):
            MUSDBDataModule(root=root)
    write_track(tmp_path / "one" / "Actions - One Minute Smile")
    with pytest.raises(DataError, match=r"one: all of its training tracks .*leave it out"):
        module({str(musdb_root): 1.0, str(tmp_path / "one"): 1.0})


def test_roots_with_another_sample_rate_are_resampled(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    write_track(tmp_path / "two" / "Other - Rate", sample_rate=22050)
    data = module({str(musdb_root): 1.0, str(tmp_path / "two"): 1.0})
    assert {track.sample_rate for track in data.train_tracks} == {44100}


def test_invalid_sampling_is_refused_before_files_are_read() -> None:
    faults: list[tuple[dict[str, Any], str]] = [
        ({"segment_curriculum": {0: 9.0}}, "9 s from epoch 0"),
        ({"avoid_silence_db": 10.0}, "avoid_silence_db"),
        ({"loudness_classes": 0}, "loudness_classes"),
        ({"mix_probability": 2}, "mix_probability"),
    ]
    for arguments, words in faults:
        with pytest.raises(DataError, match=words):
            MUSDBDataModule(**arguments)


def test_download_without_ffmpeg_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="ffmpeg"):
        MUSDBDataModule(root=str(tmp_path / "new"), download=True).prepare_data()


def test_download_uses_musdb(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """musdb gets the configured root; the fake one links a data set instead of downloading."""
    import musdb

    calls: list[dict[str, Any]] = []

    class Preview:
        def __init__(self, **arguments: Any) -> None:
            calls.append(arguments)
            (tmp_path / "preview").symlink_to(musdb_root)

    monkeypatch.setattr(musdb, "DB", Preview)
    data = MUSDBDataModule(root=str(tmp_path / "preview"), download=True, batch_size=1)
    data.prepare_data()
    data.setup("fit")
    assert calls == [{"root": str(tmp_path / "preview"), "download": True}]
    assert len(data.train_tracks) == 4


@pytest.mark.slow
def test_int16_to_device_gives_the_same_batches(musdb_root: Path) -> None:
    plain, int16 = module(musdb_root), module(musdb_root, int16_to_device=True)
    for one, other in zip(plain.train_dataloader(), int16.train_dataloader(), strict=True):
        assert other.stems.dtype == torch.int16
        expected = plain.on_after_batch_transfer(one, 0)
        assert torch.equal(expected.mixture, int16.on_after_batch_transfer(other, 0).mixture)
    # Crops longer than any track.
    long: dict[str, Any] = {
        "segment_seconds": 7.0,
        "examples_per_epoch": 4,
    }
    plain, int16 = module(musdb_root, **long), module(musdb_root, int16_to_device=True, **long)
    expected = plain.on_after_batch_transfer(next(iter(plain.train_dataloader())), 0)
    found = int16.on_after_batch_transfer(next(iter(int16.train_dataloader())), 0)
    assert torch.equal(found.mixture, expected.mixture)
    assert not found.mixture[..., -44100:].any()
    stereo = module(musdb_root, int16_to_device=True, audio_channels=1)
    with pytest.raises(DataError, match=r"2 channels, expected int16 and 1;.*int16_to_device"):
        next(iter(stereo.train_dataloader()))


def test_unsupported_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    for name in ("A - 1", "B - 2"):
        write_track(tmp_path / "train" / name, channels=3)
    with pytest.raises(DataError, match=r"A - 1: has 3 channels, expected 1 or 2; set .*=3"):
        module(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation_crops_per_track": 0}, "validation_crops_per_track is 0"),
        ({"batch_size": 17}, "batch_size 17 is larger than the epoch's 16 examples"),
    ],
)
def test_batch_and_epoch_sizes_are_checked(
    musdb_root: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        module(musdb_root, **settings)


@pytest.mark.parametrize(
    ("ranks", "accumulated", "words"),
    [
        (3, 1, "3 ranks; set --data.init_args.batch_size to 3 or 6"),
        (2, 3, "2 ranks times 3 accumulated batches; set --data.init_args.batch_size to 6$"),
    ],
)
def test_batch_size_must_divide_by_ranks_and_accumulation(
    musdb_root: Path, ranks: int, accumulated: int, words: str
) -> None:
    data = module(musdb_root)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=ranks, accumulate_grad_batches=accumulated, is_global_zero=True
    )
    with pytest.raises(DataError, match=f"batch_size is 4, the global batch size.*{words}"):
        data.setup("fit")
