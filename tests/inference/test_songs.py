"""Songs on several devices, and in mixed precision."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.files.find import SongFile
from datamodules.files.info import AudioInfo
from lightning_modules.architectures.ensemble import Ensemble
from lightning_modules.architectures.unet import UNet
from lightning_modules.inference import songs
from lightning_modules.inference.report import Job, Report
from lightning_modules.inference.separation import separate
from lightning_modules.inference.songs import Songs, copy_to, shares
from lightning_modules.runtime.device import check_precision, usable_devices
from tests.helpers.separators import TWO, Gains

CPU = torch.device("cpu")
RATE = 44100


def jobs(*seconds: float) -> list[Job]:
    return [
        Job(SongFile(Path(f"{n}.wav"), "", str(n)), AudioInfo(round(s * RATE), RATE, 2, ""), {})
        for n, s in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1, 5, 2, 2], [["1"], ["0", "2", "3"]]),
        ([0, 0, 0, 0], [["0", "2"], ["1", "3"]]),  # unknown lengths
        ([3], [["0"], []]),
    ],
)
def test_songs_are_divided_by_length(seconds: list[float], expected: list[list[str]]) -> None:
    found = [[job.song.name for job in share] for share in shares(jobs(*seconds), 2)]
    assert sorted(found, reverse=True) == sorted(expected, reverse=True)


class Waiting(Gains):
    """Continues when two threads separate at the same time."""

    barrier = threading.Barrier(2, timeout=20)

    def __deepcopy__(self, memo: Any) -> Waiting:
        return Waiting(self.sources, float(self.gains[0]))

    def forward(self, mixture: Tensor) -> Tensor:
        self.barrier.wait()
        return super().forward(mixture)


@pytest.mark.parametrize("shared", [False, True])
def test_two_devices_separate_at_the_same_time(
    shared: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if shared:
        monkeypatch.setattr(songs, "_PROPORTIONAL", ())
    given = []
    for number, job in enumerate(jobs(0.1, 0.1)):
        path = tmp_path / job.song.path
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, (job.info.samples, 2))
        soundfile.write(path, noise, RATE, "FLOAT")
        files = {name: tmp_path / f"out/{number}-{name}.wav" for name in TWO}
        given.append(Job(SongFile(path, "", str(number)), job.info, files))
    models = copy_to(Waiting(TWO, 0.25), usable_devices("cpu,cpu"), "32-true")
    assert models[0] is not models[1]
    work = Songs(given, tmp_path / "out", Report([]), show_folders=False)
    assert work.separate(models, 1) == pytest.approx(0.2)
    assert (work.failed, work.incomplete) == (0, 0)
    for job in given:
        expected = soundfile.read(job.song.path)[0] / 4
        assert np.allclose(soundfile.read(job.files["vocals"])[0], expected, atol=1e-7)


def test_errors_on_one_device_leave_the_others_alone(tmp_path: Path) -> None:
    class Failing(Gains):
        def forward(self, mixture: Tensor) -> Tensor:
            raise RuntimeError("the device is broken")

    given = []
    for job in jobs(0.1, 0.1):
        path = tmp_path / job.song.path
        soundfile.write(path, np.zeros((job.info.samples, 2)), RATE)
        files = {name: tmp_path / f"out/{job.song.name}-{name}.wav" for name in TWO}
        given.append(Job(SongFile(path, "", job.song.name), job.info, files))
    work = Songs(given, tmp_path / "out", Report([], quiet=True), show_folders=False)
    work.separate([Failing(TWO), Gains(TWO)], 1)
    assert work.failed == 1
    assert len(list((tmp_path / "out").glob("*.wav"))) == 2


def test_mixed_precision_is_that_of_all_networks() -> None:
    torch.manual_seed(6)
    network = UNet(["vocals", "other"], channels=[4, 8], segment_seconds=0.1, mask="ratio")
    network.eval()
    types: list[torch.dtype] = []
    convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    mixture = 0.1 * torch.randn(2, 8000)
    expected = network.separate(mixture)
    (model,) = copy_to(Ensemble([Ensemble([network])]), [CPU], "bf16-mixed")
    found = separate(model, mixture, settings=model.separation_settings)
    assert (types[0], types[-1]) == (torch.float32, torch.bfloat16)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))


def test_mistakes() -> None:
    with pytest.raises(DataError, match="--device gpu: cannot be used here"):
        usable_devices("cpu,gpu")
    with pytest.raises(DataError, match="16-mixed: is for GPUs"):
        check_precision("16-mixed", [CPU])
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="--device all: this machine has no GPU"):
            usable_devices("all")
