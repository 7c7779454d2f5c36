"""Augmentations that add noise to stems.

The noise becomes part of the target: the model learns to keep it with its stem. The same
classes make an input that is noisy while the targets are clean in ``datamodules.degradation``.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from datamodules.augmentations.base import (
    Parameters,
    Probability,
    StemAugmentation,
    check_range,
    on_device,
)
from datamodules.augmentations.recordings import Recordings

# Whole numbers up to here are exact in float32, which parameters are.
_EXACT = 2**24
# Bounds the memory that noise for a whole song takes.
_LONGEST_PERIOD = 2**20


class GaussianNoise(StemAugmentation):
    """Add white Gaussian noise, of which each channel has its own.

    The noise is a function of a drawn key alone: Philox4x32-10 turned into normal
    numbers by the method of Box and Muller 1958. It is therefore the same in any batch,
    and on any device but for the rounding of logarithm, sine and cosine.

    Args:
        lowest_db: Lowest signal-to-noise ratio, dB.
        highest_db: Highest signal-to-noise ratio, dB.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = math.inf

    def __init__(
        self,
        lowest_db: float = 20.0,
        highest_db: float = 50.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        self.lowest_db, self.highest_db = lowest_db, highest_db

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a signal-to-noise ratio in dB and the two halves of a key for each stem."""
        ratios = random.uniform(self.lowest_db, self.highest_db, stems)
        return np.column_stack([ratios, random.integers(_EXACT, size=(stems, 2))])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Add noise to each stem."""
        keys = parameters[:, 1:].long().to(waveforms.device)
        noise = normal(keys, waveforms[0].numel()).view_as(waveforms).to(waveforms)
        return add_noise(waveforms, noise, parameters[:, 0])


class ColouredNoise(StemAugmentation):
    """Add noise whose power falls with frequency, of which each channel has its own.

    Power goes with 1 / f to a drawn exponent: 0 is white, 1 pink, 2 brown noise. It is white
    noise (that of ``GaussianNoise``) whose spectrum is weighted, of a length that the Fourier
    transform likes, repeated without a seam after at most 24 seconds at 44.1 kHz.

    Args:
        lowest_db: Lowest signal-to-noise ratio, dB.
        highest_db: Highest signal-to-noise ratio, dB.
        lowest_exponent: Smallest exponent.
        highest_exponent: Largest exponent.
        probability: Probability per stem, one number or one a stem.
    """

    neutral = math.inf

    def __init__(
        self,
        lowest_db: float = 0.0,
        highest_db: float = 20.0,
        lowest_exponent: float = 0.0,
        highest_exponent: float = 2.0,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        check_range("exponent", lowest_exponent, highest_exponent)
        self.decibels = lowest_db, highest_db
        self.exponents = lowest_exponent, highest_exponent

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a ratio in dB, an exponent and the two halves of a key for each stem."""
        ratios = random.uniform(*self.decibels, stems)
        exponents = random.uniform(*self.exponents, stems)
        return np.column_stack([ratios, exponents, random.integers(_EXACT, size=(stems, 2))])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Add noise to each stem."""
        count, channels, samples = waveforms.shape
        period = min(scipy.fft.next_fast_len(samples, real=True), _LONGEST_PERIOD)
        keys = parameters[:, 2:].long().to(waveforms.device)
        white = normal(keys, channels * period).view(count, channels, period)
        frequencies = torch.arange(period // 2 + 1, device=waveforms.device).clamp_min(1)
        weights = frequencies ** (-on_device(parameters[:, 1], white) / 2)
        weights[..., 0] = 0  # noise has no mean
        noise = torch.fft.irfft(torch.fft.rfft(white) * weights, period)
        repeats = -(-samples // period)
        noise = noise.repeat(1, 1, repeats)[..., :samples].to(waveforms)
        return add_noise(waveforms, noise, parameters[:, 0])


class RecordedNoise(StemAugmentation):
    """Add a crop of a recording drawn from a folder.

    A recording shorter than the crop is repeated; one of another sample rate is
    resampled; one with other channels than the stem goes to all channels as its average.
    The crop is read from disk when it is needed, so the folder may be of any size.

    Args:
        folder: Folder of WAV, FLAC, Ogg or MP3 files, searched with its subfolders.
        lowest_db: Lowest signal-to-noise ratio, dB.
        highest_db: Highest signal-to-noise ratio, dB.
        probability: Probability per stem, one number or one a stem.

    Raises:
        DataError: The folder is missing or empty, or a file in it is damaged.
    """

    neutral = math.inf

    def __init__(
        self,
        folder: str,
        lowest_db: float = 10.0,
        highest_db: float = 40.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(probability)
        check_range("db", lowest_db, highest_db)
        self.recordings = Recordings(folder, "noise recordings")
        self.lowest_db, self.highest_db = lowest_db, highest_db

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a signal-to-noise ratio in dB, a recording and a place in it for each stem."""
        ratios = random.uniform(self.lowest_db, self.highest_db, stems)
        numbers = random.integers(len(self.recordings), size=stems)
        return np.column_stack([ratios, numbers, random.integers(_EXACT, size=stems) / _EXACT])

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Add a recording to each stem."""
        _, channels, samples = waveforms.shape
        noise = np.stack(
            [
                self.recordings.read_looped(int(number), place, samples, self.sample_rate, channels)
                for _, number, place in parameters.tolist()
            ]
        )
        return add_noise(waveforms, torch.from_numpy(noise).to(waveforms), parameters[:, 0])


def add_noise(waveforms: Tensor, noise: Tensor, ratios_db: Tensor) -> Tensor:
    """Add noise at a ratio of the powers of whole stems, all channels together.

    As torchaudio's ``add_noise``, which however makes NaN of silent noise and treats
    each channel on its own, which would move the noise in the stereo image.

    Args:
        waveforms: Shape (N, C, T).
        noise: Same shape.
        ratios_db: Signal-to-noise ratios, dB, shape (N,).

    Returns:
        Noisy waveforms, shape (N, C, T); a silent stem stays silent.
    """
    levels = waveforms.square().mean((1, 2), keepdim=True).sqrt()
    noise_levels = noise.square().mean((1, 2), keepdim=True).sqrt()
    factors = on_device(10 ** (-ratios_db.double() / 20), waveforms) * levels / noise_levels
    return waveforms + noise * torch.where(noise_levels > 0, factors, 0.0)


def normal(keys: Tensor, count: int) -> Tensor:
    """Normal random numbers that depend on nothing but a key.

    Args:
        keys: Two 32-bit words each, int64, shape (N, 2).
        count: Numbers wanted of each key.

    Returns:
        float32, mean 0 and variance 1, shape (N, count).
    """
    blocks = torch.arange(-(-count // 4), device=keys.device).expand(len(keys), -1)
    zeros = torch.zeros_like(blocks)
    words = philox([blocks, zeros, zeros, zeros], [keys[:, :1], keys[:, 1:]])
    # The upper 24 bits, all that float32 holds; 1 is added where a logarithm is taken.
    whole = [(word >> 8).float() for word in words]
    numbers = []
    for radius, angle in (whole[:2], whole[2:]):
        radius = torch.sqrt(-2 * torch.log((radius + 1) / 2**24))
        angle = angle * (2 * math.pi / 2**24)
        numbers += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(numbers, -1).flatten(1)[:, :count]


def philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Philox4x32-10, a random function of counter and key.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", with the
    constants of their Random123. NumPy's Philox is the variant of 64 bits, which tensors
    lack the unsigned multiplication for.

    Args:
        counter: Four words of 32 bits, held as int64.
        key: Two words of 32 bits, held as int64, of shapes that broadcast with the counter's.

    Returns:
        Four words of 32 bits, held as int64.
    """
    mask = 0xFFFFFFFF
    first, second, third, fourth = counter
    left, right = key
    for _ in range(10):
        # The product's 64 bits are right in int64, whatever its sign; shifts need the mask.
        product, other = first * 0xD2511F53, third * 0xCD9E8D57
        first, third = (other >> 32 & mask) ^ second ^ left, (product >> 32 & mask) ^ fourth ^ right
        second, fourth = other & mask, product & mask
        left, right = (left + 0x9E3779B9) & mask, (right + 0xBB67AE85) & mask
    return [first, second, third, fourth]
