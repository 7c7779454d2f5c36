"""Augmentations that add noise to stems.

The noise becomes part of the target: the model learns to keep it with its stem. In
``datamodules.degradation`` the same classes add noise to the input only.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from datamodules.augmentations.base import (
    KEYS,
    Parameters,
    Probability,
    StemAugmentation,
    checked_range,
    on_device,
)
from datamodules.augmentations.recordings import Recordings

# Bounds the memory of the noise for a whole song.
_LONGEST_PERIOD = 2**20


class _Noise(StemAugmentation):
    """Base of additive noise; the first parameter is the signal-to-noise ratio in dB."""

    neutral = math.inf

    def __init__(self, lowest_db: float, highest_db: float, probability: Probability) -> None:
        super().__init__(probability)
        self.range_db = checked_range("db", lowest_db, highest_db)

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Add noise to each stem."""
        noise = self.noise(waveforms, parameters[:, 1:]).to(waveforms)
        return add_noise(waveforms, noise, parameters[:, 0])

    @abstractmethod
    def noise(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Generate noise of any level, shape (N, C, T), on any device.

        Args:
            waveforms: Stems, shape (N, C, T).
            parameters: All but the signal-to-noise ratio, shape (N, k - 1).
        """


class GaussianNoise(_Noise):
    """Add white Gaussian noise, independent in each channel.

    The noise is a function of the drawn key only: Philox4x32-10, converted to normal numbers by the
    transform of Box and Muller 1958. It is therefore the same in any batch and, up to the rounding
    of logarithm, sine and cosine, on any device.

    Args:
        lowest_db: Lowest signal-to-noise ratio, dB.
        highest_db: Highest signal-to-noise ratio, dB.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(
        self, lowest_db: float = 20.0, highest_db: float = 50.0, probability: Probability = 0.5
    ) -> None:
        super().__init__(lowest_db, highest_db, probability)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a signal-to-noise ratio in dB and the two halves of a key for each stem."""
        ratios = random.uniform(*self.range_db, stems)
        return np.column_stack([ratios, random.integers(KEYS, size=(stems, 2))])

    def noise(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Generate white noise from the keys."""
        keys = parameters.long().to(waveforms.device)
        return normal(keys, waveforms[0].numel()).view_as(waveforms)


class ColouredNoise(_Noise):
    """Add noise whose power falls with frequency, independent in each channel.

    Power is proportional to 1 / f to a drawn exponent: 0 is white, 1 pink, 2 brown noise. White
    noise (as of ``GaussianNoise``) is weighted in its spectrum. Its length is a fast one for the
    FFT, at most 24 seconds at 44.1 kHz; longer stems repeat it, which is seamless.

    Args:
        lowest_db: Lowest signal-to-noise ratio, dB.
        highest_db: Highest signal-to-noise ratio, dB.
        lowest_exponent: Smallest exponent.
        highest_exponent: Largest exponent.
        probability: Probability per stem, one number or one per stem.
    """

    def __init__(
        self,
        lowest_db: float = 0.0,
        highest_db: float = 20.0,
        lowest_exponent: float = 0.0,
        highest_exponent: float = 2.0,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(lowest_db, highest_db, probability)
        self.range_exponent = checked_range("exponent", lowest_exponent, highest_exponent)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a ratio in dB, an exponent and the two halves of a key for each stem."""
        ratios = random.uniform(*self.range_db, stems)
        exponents = random.uniform(*self.range_exponent, stems)
        return np.column_stack([ratios, exponents, random.integers(KEYS, size=(stems, 2))])

    def noise(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Generate coloured noise from exponents and keys."""
        count, channels, samples = waveforms.shape
        period = min(scipy.fft.next_fast_len(samples, real=True), _LONGEST_PERIOD)
        keys = parameters[:, 1:].long().to(waveforms.device)
        white = normal(keys, channels * period).view(count, channels, period)
        frequencies = torch.arange(period // 2 + 1, device=waveforms.device).clamp_min(1)
        weights = frequencies ** (-on_device(parameters[:, 0], white) / 2)
        weights[..., 0] = 0  # zero mean
        noise: Tensor = torch.fft.irfft(torch.fft.rfft(white) * weights, period)
        repeats = -(-samples // period)
        return noise.repeat(1, 1, repeats)[..., :samples]


class RecordedNoise(_Noise):
    """Add a crop of a recording drawn from a folder.

    A recording shorter than the crop is repeated; one with another sample rate is resampled; one
    with a different number of channels than the stem is averaged, and the average is added to all
    channels. Crops are read from disk when they are needed, so the folder may be of any size.

    Args:
        folder: Folder of WAV, FLAC, Ogg or MP3 files, searched with its subfolders.
        lowest_db: Lowest signal-to-noise ratio, dB.
        highest_db: Highest signal-to-noise ratio, dB.
        probability: Probability per stem, one number or one per stem.

    Raises:
        DataError: The folder is missing or empty, or a file in it is damaged.
    """

    def __init__(
        self,
        folder: str,
        lowest_db: float = 10.0,
        highest_db: float = 40.0,
        probability: Probability = 0.5,
    ) -> None:
        super().__init__(lowest_db, highest_db, probability)
        self.recordings = Recordings(folder, "noise recordings")

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw a ratio in dB, the number of a recording and a place in it for each stem."""
        ratios = random.uniform(*self.range_db, stems)
        numbers = random.integers(len(self.recordings), size=stems)
        return np.column_stack([ratios, numbers, random.integers(KEYS, size=stems) / KEYS])

    def noise(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Read the recordings."""
        _, channels, samples = waveforms.shape
        crops = [
            self.recordings.read_looped(int(number), place, samples, self.sample_rate, channels)
            for number, place in parameters.tolist()
        ]
        return torch.from_numpy(np.stack(crops))


def add_noise(waveforms: Tensor, noise: Tensor, ratios_db: Tensor) -> Tensor:
    """Add noise at a signal-to-noise ratio of all channels together.

    torchaudio's ``add_noise`` returns NaN for silent noise, and treats each channel separately,
    which would move the noise in the stereo image.

    Args:
        waveforms: Shape (N, C, T); a silent stem stays silent.
        noise: Same shape.
        ratios_db: Signal-to-noise ratios, dB, shape (N,).
    """
    levels = waveforms.square().mean((1, 2), keepdim=True).sqrt()
    noise_levels = noise.square().mean((1, 2), keepdim=True).sqrt()
    factors = on_device(10 ** (-ratios_db.double() / 20), waveforms) * levels / noise_levels
    return waveforms + noise * torch.where(noise_levels > 0, factors, 0.0)


def normal(keys: Tensor, count: int) -> Tensor:
    """Generate normal random numbers from keys of two 32-bit words.

    Args:
        keys: int64, shape (N, 2).
        count: Numbers to generate from each key.

    Returns:
        float32, mean 0 and variance 1, shape (N, count); each row depends on its key only.
    """
    blocks = torch.arange(-(-count // 4), device=keys.device).expand(len(keys), -1)
    zeros = torch.zeros_like(blocks)
    words = philox([blocks, zeros, zeros, zeros], [keys[:, :1], keys[:, 1:]])
    # float32 holds the upper 24 bits; 1 is added before the logarithm, which 0 does not have.
    uniform = [(word >> 8).float() for word in words]
    numbers = []
    for radius, angle in (uniform[:2], uniform[2:]):
        radius = torch.sqrt(-2 * torch.log((radius + 1) / 2**24))
        angle = angle * (2 * math.pi / 2**24)
        numbers += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(numbers, -1).flatten(1)[:, :count]


def philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Compute Philox4x32-10, a counter-based random generator, on 32-bit words as int64.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", with the constants of their
    Random123. NumPy has the 64-bit variant, which needs a multiplication that torch lacks.

    Args:
        counter: Four words.
        key: Two words, of shapes that broadcast with the counter's.

    Returns:
        Four words.
    """
    mask = 0xFFFFFFFF
    first, second, third, fourth = counter
    left, right = key
    for _ in range(10):
        # The product overflows into the sign bit of int64; the mask removes the extended sign.
        product, other = first * 0xD2511F53, third * 0xCD9E8D57
        first, third = (other >> 32 & mask) ^ second ^ left, (product >> 32 & mask) ^ fourth ^ right
        second, fourth = other & mask, product & mask
        left, right = (left + 0x9E3779B9) & mask, (right + 0xBB67AE85) & mask
    return [first, second, third, fourth]
