"""All loaders do the same task: shape, random tracks, gains and swaps of channels."""

from __future__ import annotations

import importlib
import random
import shutil
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.benchmark import corpus, loaders, peers
from datamodules.benchmark.corpus import Task
from datamodules.benchmark.measuring import Start
from datamodules.errors import DataError
from datamodules.files import write_crop


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The bounds of these tests hold for this seed of the other loaders."""
    torch.manual_seed(0)
    random.seed(0)


def stems_of(start: Start, workers: int = 0, batches: int = 4) -> Tensor:
    """Examples of several batches of a loader, shape (B, stems, 2, T)."""
    running = start(workers)
    found = []
    for _ in range(batches):
        batch = next(running)
        # Cloned at once, because a ring overwrites its batches.
        found.append(getattr(batch, "stems", batch).clone())
    running.close()
    return torch.cat(found)


def check(stems: Tensor, task: Task, lowest: float, highest: float) -> None:
    """Check the track, the gain and the swap of each stem; see the corpus of these tests."""
    assert stems.shape[1:] == (4, 2, task.segment_samples)
    assert stems.dtype == torch.float32
    assert torch.equal(stems, stems[..., :1].expand_as(stems))  # constant crops
    left, right = stems[..., 0].unbind(-1)
    swapped = left < right
    gains = torch.maximum(left, right) * 2**15 / 4000
    tracks = torch.maximum(left, right) / torch.minimum(left, right)
    assert 0.2 < swapped.float().mean() < 0.8
    assert gains.min() > lowest - 1e-4
    assert gains.max() < highest + 1e-4
    assert len(gains.unique()) > gains.numel() / 2
    assert (tracks - tracks.round()).abs().max() < 0.02
    assert len(tracks.round().unique()) >= len(task.tracks) - 1
    assert any(len(example.round().unique()) > 2 for example in tracks)


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_soundfile(task: Task, workers: int) -> None:
    check(stems_of(loaders.plain_soundfile(task), workers), task, 0.25, 1.25)


@pytest.mark.parametrize("workers", [0, 2])
def test_stemlab(task: Task, workers: int) -> None:
    stems = stems_of(loaders.stemlab(task), workers)
    check(stems, task, 10 ** (-12 / 20), 10 ** (2 / 20))


def test_stemlab_is_the_same_with_and_without_the_kernel(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, fallback = loaders.stemlab(task), loaders.stemlab(task, compiled=False)
    torch.testing.assert_close(stems_of(compiled), stems_of(fallback), rtol=1e-6, atol=0)

    def refuse() -> None:
        raise RuntimeError("the kernel was requested")

    monkeypatch.setattr(write_crop, "_stereo_kernel", refuse)
    stems_of(fallback)
    assert write_crop._stereo_kernel is refuse  # restored for the other rows
    with pytest.raises(RuntimeError, match="was requested"):
        stems_of(compiled)


def test_stemlab_int16_equals_the_files(task: Task) -> None:
    stems = stems_of(loaders.stemlab(task, int16_to_device=True))
    assert stems.dtype == torch.int16
    assert stems.shape[1:] == (4, task.segment_samples, 2)
    assert (stems[..., 0] == 4000).all()
    assert set(stems[..., 1].unique().tolist()) <= {2000, 1333, 1000, 800, 666}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_copy_limit_copies_crops(task: Task, dtype: torch.dtype) -> None:
    single = Task(task.root, task.tracks, task.segment_samples, 1)
    batch = stems_of(loaders.copy_limit(single, dtype), batches=70)  # more than are planned
    assert batch.dtype == dtype
    assert (batch[..., 0] == 4000).all()
    assert len(batch[..., 1].unique()) == 5


# ------------------------------------------------------------------------------------- peers


@pytest.mark.slow
def test_musdb(task: Task) -> None:
    few = Task(task.root, task.tracks, task.segment_samples, 4)
    check(stems_of(peers.musdb_chunks(few), batches=1), few, 0.25, 1.25)


@pytest.mark.slow
def test_torchaudio(task: Task) -> None:
    check(stems_of(peers.torchaudio_musdb_hq(task)), task, 0.25, 1.25)
    check(stems_of(peers.torchaudio_musdb_hq(task), workers=1), task, 0.25, 1.25)


def check_mixture_and_target(start: Start, task: Task) -> None:
    """A batch of mixtures and one of their stems, with random gains and swapped channels."""
    running = start(0)
    mixture, target = next(running)
    running.close()
    assert mixture.shape == target.shape == (task.batch_size, 2, task.segment_samples)
    assert (mixture > target).all()  # all samples of all stems are positive
    left, right = target[..., 0].unbind(-1)
    assert 0 < (left < right).float().mean() < 1
    gains = torch.maximum(left, right) * 2**15 / 4000
    assert 0.25 <= gains.min() < 0.7 < gains.max() <= 1.25


@pytest.mark.slow
def test_open_unmix(task: Task) -> None:
    importlib.import_module("openunmix")
    check_mixture_and_target(peers.openunmix_folders(task), task)
    check_mixture_and_target(peers.openunmix_musdb(task), task)


@pytest.mark.parametrize("batch_size", [8, 3])
def test_demucs(task: Task, batch_size: int) -> None:
    """Stems are remixed in groups of 4 if that divides the batch size, else in one group."""
    importlib.import_module("dora")
    batch = Task(task.root, task.tracks, task.segment_samples, batch_size)
    stems = stems_of(peers.demucs_wavset(batch), workers=1, batches=1)
    assert stems.shape == (batch_size, 4, 2, task.segment_samples)


# ------------------------------------------------------------------------------------ corpus


def test_lack_of_disk_space_is_reported_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = types.SimpleNamespace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"2 tracks of 60 s take 0\.1 GB, 0\.0 GB are free"):
        corpus.make_corpus(tmp_path, 2, 60)
    assert not list(tmp_path.iterdir())
