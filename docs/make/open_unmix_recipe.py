"""Training with the recipe of the package ``openunmix``, to compare with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from openunmix import data, model, transforms, utils
from torch import Tensor

from learning_curve import Points


class OpenUnmixRecipe:
    """Networks, data set class, augmentation, loss and optimiser of ``openunmix``.

    The values are those of its training script, but for the sizes that a CPU needs: hidden size
    256, crops of 3 seconds, batches of 8. The script trains one network after the other; here the
    four take turns, a step each, so that every point of the curve has all of them. The script
    lowers the learning rate after 80 epochs without improvement, which is never reached here.

    Its data set class reads files with functions of torchaudio that no longer exist; soundfile
    reads them here.

    Args:
        root: Folder of the training tracks: one folder of stems per track.
    """

    sources = ("vocals", "drums", "bass", "other")
    seconds, batch_size, hidden_size, samples_per_track = 3.0, 8, 256, 64

    def __init__(self, root: Path) -> None:
        suffix = next(root.glob("*/mixture.*")).suffix
        data.load_info, data.load_audio = _info, _audio
        augment = data.aug_from_str(["gain", "channelswap"])
        self._stft, _ = transforms.make_filterbanks(4096, 1024, sample_rate=44100)
        self._magnitude = model.ComplexNorm(mono=False)
        bins = utils.bandwidth_to_max_bin(44100, 4096, 16000)
        self._targets: dict[str, Any] = {}
        for source in self.sources:
            others = [name + suffix for name in self.sources if name != source]
            arguments: dict[str, Any] = {
                "root": str(root.parent), "split": root.name,
                "target_file": source + suffix, "interferer_files": others,
            }  # fmt: skip
            mean, deviation = self._statistics(data.FixedSourcesTrackFolderDataset(**arguments))
            crops = data.FixedSourcesTrackFolderDataset(
                **arguments, seq_duration=self.seconds, random_chunks=True,
                random_track_mix=True, source_augmentations=augment,
            )  # fmt: skip
            network = model.OpenUnmix(
                nb_bins=2049, nb_channels=2, hidden_size=self.hidden_size, max_bin=bins,
                input_mean=mean, input_scale=deviation,
            )  # fmt: skip
            optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5)
            self._targets[source] = (network, crops, optimizer)

    def _statistics(self, tracks: Any) -> tuple[Any, Any]:
        """Mean and deviation of each bin over all frames of the mixtures."""
        total = squares = np.zeros(2049)
        frames = 0
        for mixture, _ in tracks:
            magnitudes = self._magnitude(self._stft(mixture[None]))[0].mean(0).double().numpy()
            total = total + magnitudes.sum(1)
            squares = squares + (magnitudes**2).sum(1)
            frames += magnitudes.shape[1]
        mean = total / frames
        deviation = np.sqrt(np.maximum(squares / frames - mean**2, 0))
        return mean, np.maximum(deviation, 1e-4 * deviation.max())

    def separate(self, mixture: Tensor, sample_rate: int) -> Tensor:
        """Separate with one iteration of the Wiener filter, the package's default."""
        networks = {source: target[0].eval() for source, target in self._targets.items()}
        separator = model.Separator(networks, niter=1, nb_channels=2).eval()
        with torch.no_grad():
            estimates: Tensor = separator(mixture[None])[0]
        return estimates

    def train(self, points: Points, score: Callable[[], dict[str, float]]) -> None:
        """Train until all points are taken."""
        batches = {
            source: _endless(crops, self.batch_size, self.samples_per_track)
            for source, (_, crops, _) in self._targets.items()
        }
        step = 0
        while not points.complete:
            for source, (network, _, optimizer) in self._targets.items():
                network.train()
                mixture, target = next(batches[source])
                optimizer.zero_grad()
                estimate = network(self._magnitude(self._stft(mixture)))
                loss = torch.nn.functional.mse_loss(estimate, self._magnitude(self._stft(target)))
                loss.backward()
                optimizer.step()
            step += 1
            points.after_step(step, score)


def _endless(crops: Any, batch_size: int, samples_per_track: int) -> Iterator[Any]:
    """Batches of crops; each epoch has ``samples_per_track`` crops of each track, shuffled."""
    epoch: Any = torch.utils.data.ConcatDataset([crops] * samples_per_track)
    while True:
        yield from torch.utils.data.DataLoader(epoch, batch_size=batch_size, shuffle=True)


def _info(path: str | os.PathLike[str]) -> dict[str, float]:
    found = soundfile.info(path)
    return {
        "samplerate": found.samplerate, "samples": found.frames, "channels": found.channels,
        "duration": found.duration,
    }  # fmt: skip


def _audio(
    path: str | os.PathLike[str], start: float = 0.0, dur: float | None = None, info: Any = None
) -> tuple[Tensor, int]:
    rate = soundfile.info(path).samplerate
    count = -1 if dur is None else int(dur * rate)
    audio, rate = soundfile.read(path, count, int(start * rate), dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(audio.T)), rate
