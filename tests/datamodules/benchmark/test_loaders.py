"""All loaders do the same task: shape, random tracks, gains and swaps of channels."""

from __future__ import annotations

import random
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from datamodules.benchmark import corpus, loaders, peers
from datamodules.benchmark.corpus import SAMPLE_RATE, Task
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


def test_torchaudio(task: Task) -> None:
    check(stems_of(peers.torchaudio_musdb_hq(task)), task, 0.25, 1.25)
    check(stems_of(peers.torchaudio_musdb_hq(task), workers=1), task, 0.25, 1.25)


def mixture_and_target(start: Start, task: Task) -> None:
    running = start(0)
    mixture, target = next(running)
    running.close()
    assert mixture.shape == target.shape == (task.batch_size, 2, task.segment_samples)
    assert (mixture > target).all()  # all samples of all stems are positive


@pytest.mark.slow
def test_open_unmix(task: Task) -> None:
    pytest.importorskip("openunmix")
    mixture_and_target(peers.openunmix_folders(task), task)
    mixture_and_target(peers.openunmix_musdb(task), task)


def test_demucs(task: Task) -> None:
    pytest.importorskip("dora")
    stems = stems_of(peers.demucs_wavset(task))
    assert stems.shape[1:] == (4, 2, task.segment_samples)


class OneStem(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Fake of Open-Unmix's data sets: takes the same arguments and reads in the same way."""

    def __init__(
        self,
        root: str,
        seq_duration: float,
        random_track_mix: bool,
        source_augmentations: Callable[[Tensor], Tensor],
        is_wav: bool = True,
        split: str = "train",
        target_file: str = "vocals.wav",
        interferer_files: tuple[str, ...] = ("drums.wav", "bass.wav", "other.wav"),
        random_chunks: bool = True,
    ) -> None:
        assert len({target_file, *interferer_files}) == 4
        assert random_track_mix
        assert random_chunks
        assert is_wav
        self.files = sorted(Path(root, split).glob(f"*/{target_file}"))
        self.seconds, self.augment = seq_duration, source_augmentations

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        import torchaudio

        assert torchaudio.get_audio_backend() == "soundfile"
        info = torchaudio.info(str(self.files[number]))
        assert (info.num_frames, info.num_channels) == (3 * SAMPLE_RATE, 2)
        frames = int(self.seconds * info.sample_rate)
        stem, rate = torchaudio.load(self.files[number], frame_offset=10, num_frames=frames)
        assert rate == SAMPLE_RATE
        target = self.augment(stem)
        return target + stem, target


def test_open_unmix_gets_its_arguments(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[list[str]] = []

    def aug_from_str(wanted: list[str]) -> Callable[[Tensor], Tensor]:
        names.append(wanted)
        return lambda audio: audio / 2

    package, data = types.ModuleType("openunmix"), types.ModuleType("openunmix.data")
    stand_ins = {
        "FixedSourcesTrackFolderDataset": OneStem,
        "MUSDBDataset": OneStem,
        "aug_from_str": aug_from_str,
    }
    data.__dict__.update(stand_ins)
    package.data = data  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openunmix", package)
    monkeypatch.setitem(sys.modules, "openunmix.data", data)
    mixture_and_target(peers.openunmix_folders(task), task)
    mixture_and_target(peers.openunmix_musdb(task), task)
    assert names == [["gain", "channelswap"]] * 2


class Wavset(torch.utils.data.Dataset[Tensor]):
    """Fake of Demucs' data set."""

    def __init__(
        self, root: Path, metadata: list[Path], sources: list[str], segment: float, shift: float
    ) -> None:
        self.samples = round(segment * SAMPLE_RATE)
        self.sources, self.tracks = sources, metadata
        assert segment == shift + 0.25

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, number: int) -> Tensor:
        import torchaudio

        files = [self.tracks[number] / f"{source}.wav" for source in self.sources]
        return torch.stack([torchaudio.load(f, num_frames=self.samples)[0] for f in files])


class Shift(nn.Module):
    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, stems: Tensor) -> Tensor:
        return stems[..., self.shift :]


class Scale(nn.Module):
    def __init__(self, min: float, max: float) -> None:
        super().__init__()
        self.gain = max - min

    def forward(self, stems: Tensor) -> Tensor:
        return stems * self.gain


def test_demucs_gets_its_arguments(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []

    def remix(group_size: int) -> nn.Module:
        groups.append(group_size)
        return nn.Identity()

    wav, augment = types.ModuleType("demucs.wav"), types.ModuleType("demucs.augment")
    wav.__dict__.update(Wavset=Wavset, build_metadata=lambda root, sources: sorted(root.iterdir()))
    augment.__dict__.update(Shift=Shift, FlipChannels=nn.Identity, Scale=Scale, Remix=remix)
    package = types.ModuleType("demucs")
    package.__dict__.update(wav=wav, augment=augment)
    for name, module in {"demucs": package, "demucs.wav": wav, "demucs.augment": augment}.items():
        monkeypatch.setitem(sys.modules, name, module)
    stems = stems_of(peers.demucs_wavset(task), workers=1, batches=1)
    assert stems.shape == (8, 4, 2, task.segment_samples)
    assert (stems[:, :, 0] == 4000 / 2**15).all()
    peers.demucs_wavset(Task(task.root, task.tracks, task.segment_samples, 3))
    assert groups == [4, 0]  # one group where 4 does not divide the batch size


# ------------------------------------------------------------------------------------ corpus


def test_lack_of_disk_space_is_reported_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = types.SimpleNamespace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"2 tracks of 60 s take 0\.1 GB, 0\.0 GB are free"):
        corpus.make_corpus(tmp_path, 2, 60, progress=False)
    assert not list(tmp_path.iterdir())
