"""Augmentations that put music into a room: recorded, computed, or decaying noise.

What comes out is the convolution alone, as if one listened in the room; ``filters.Reverb`` adds
reverberation to a stem that stays dry. Responses begin with the direct sound and have unit
energy, mean over channels, so that the music keeps its place in time and about its loudness.
Made for ``datamodules.degradation``, where the targets stay dry.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.augmentations.base import Parameters, Probability, StemAugmentation, check_range
from datamodules.augmentations.convolution import (
    convolve,
    from_onset,
    of_unit_energy,
    recorded_response,
)
from datamodules.augmentations.recordings import Recordings
from datamodules.files.audio import Audio
from datamodules.randomness import ROOM, generator

Positions = npt.NDArray[np.float64]

_METRES_PER_SECOND = 343.0  # of sound, in air of 20 degrees Celsius
# Rooms that are computed: width, length and height, metres.
_SMALLEST, _LARGEST = np.array([3.0, 3.0, 2.4]), np.array([8.0, 10.0, 4.0])
_FROM_WALLS = 0.5  # source and middle of the microphones are at least so far from walls, metres
_APART = 0.2  # distance of neighbouring microphones, metres
_KEYS = 2**24  # whole numbers up to here are exact in float32, which parameters are


class Room(StemAugmentation):
    """Convolution with an impulse response; a parameter below zero stands for none."""

    neutral = -1.0

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Convolve each stem with its response; the tail ends with the crop."""
        _, channels, samples = waveforms.shape
        # One length for all, so that rounding does not depend on the batch.
        responses = torch.zeros(len(waveforms), channels, min(samples, self.longest_samples()))
        for place, row in enumerate(parameters.tolist()):
            heard = self.response(row, channels)[:, : responses.shape[-1]]
            responses[place, :, : heard.shape[-1]] = heard
        return convolve(waveforms, responses.to(waveforms))

    @abstractmethod
    def longest_samples(self) -> int:
        """Length of the longest response there may be, samples."""

    @abstractmethod
    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Find the response that belongs to a stem's parameters.

        Args:
            parameters: A row of what was drawn.
            channels: Number of channels.

        Returns:
            Response of unit energy, mean over channels, on the CPU, shape (channels, L).
        """


class RecordedRoom(Room):
    """A room whose impulse response is drawn from a folder.

    A response of another sample rate is resampled; one with other channels than the stem acts on
    all of them as its average.

    Args:
        folder: Folder of WAV, FLAC, Ogg or MP3 files, searched with its subfolders.
        probability: Probability per stem, one number or one a stem.

    Raises:
        DataError: The folder is missing or empty, or a file in it is damaged or silent.
    """

    def __init__(self, folder: str, probability: Probability = 1.0) -> None:
        super().__init__(probability)
        self.recordings = Recordings(folder, "impulse responses")

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the number of a file for each stem."""
        return random.integers(len(self.recordings), size=(stems, 1)).astype(np.float64)

    def longest_samples(self) -> int:
        """Of the longest file."""
        return self.recordings.longest_samples(self.sample_rate)

    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Read the file, once."""
        number = int(parameters[0])
        path, info = self.recordings.files[number], self.recordings.infos[number]
        return recorded_response(path, info.sample_rate, self.sample_rate, channels)


class DecayingNoise(Room):
    """White noise that decays exponentially, behind the direct sound: a room's statistics.

    Each channel has noise of its own (Moorer 1979, "About this reverberation business").

    Args:
        lowest_seconds: Shortest reverberation time (to -60 dB), seconds.
        highest_seconds: Longest, seconds.
        lowest_db: Lowest ratio of the energies of direct sound and reverberation, dB.
        highest_db: Highest, dB.
        probability: Probability per stem, one number or one a stem.
    """

    def __init__(
        self,
        lowest_seconds: float = 0.2,
        highest_seconds: float = 0.6,
        lowest_db: float = 0.0,
        highest_db: float = 10.0,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range("seconds", lowest_seconds, highest_seconds, above=0)
        check_range("db", lowest_db, highest_db)
        self.seconds, self.decibels = (lowest_seconds, highest_seconds), (lowest_db, highest_db)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw reverberation time, ratio in dB and the key of the noise for each stem."""
        times = random.uniform(*self.seconds, stems)
        ratios = random.uniform(*self.decibels, stems)
        return np.column_stack([times, ratios, random.integers(_KEYS, size=stems)])

    def longest_samples(self) -> int:
        """To the end of the longest reverberation time, beyond which nothing is heard."""
        return 1 + math.ceil(self.seconds[1] * self.sample_rate)

    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Make the response."""
        seconds, ratio_db, key = parameters
        time = np.arange(math.ceil(seconds * self.sample_rate)) / self.sample_rate
        noise = generator(int(key), ROOM, 0, 0).standard_normal((channels, len(time)))
        tail = of_unit_energy(noise * 10 ** (-3 * time / seconds)) * 10 ** (-ratio_db / 20)
        direct = np.ones((channels, 1))
        return torch.from_numpy(of_unit_energy(np.concatenate([direct, tail], 1)))


class ShoeboxRoom(Room):
    """A rectangular room with microphones, computed by the image-source method.

    Room n is the same in every run: 3 to 8 by 3 to 10 by 2.4 to 4 metres, a source, and a
    microphone for each channel, 20 cm from the next. All walls reflect alike, as much as
    Eyring's formula asks for the reverberation time that was drawn. In evaluation mode (see
    ``torch.nn.Module.eval``) as many other rooms are drawn.

    Args:
        lowest_seconds: Shortest reverberation time (to -60 dB), seconds.
        highest_seconds: Longest, seconds.
        lowest_metres: Least distance of source and microphones, metres.
        highest_metres: Greatest, up to 2 metres, for which any of the rooms has space.
        rooms: Number of rooms, each of which is computed when it is first drawn.
        probability: Probability per stem, one number or one a stem.
    """

    def __init__(
        self,
        lowest_seconds: float = 0.2,
        highest_seconds: float = 0.6,
        lowest_metres: float = 0.5,
        highest_metres: float = 2.0,
        rooms: int = 400,
        probability: Probability = 1.0,
    ) -> None:
        super().__init__(probability)
        check_range("seconds", lowest_seconds, highest_seconds, above=0)
        check_range("metres", lowest_metres, highest_metres, above=0)
        if highest_metres > 2:
            raise ValueError(f"highest_metres is {highest_metres}: give a distance up to 2")
        if not 1 <= rooms <= _KEYS // 2:
            raise ValueError(f"rooms is {rooms}: give a number from 1 to {_KEYS // 2}")
        self.seconds = lowest_seconds, highest_seconds
        self.metres = lowest_metres, highest_metres
        self.rooms = rooms

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the number of a room for each stem."""
        first = 0 if self.training else self.rooms
        return first + random.integers(self.rooms, size=(stems, 1)).astype(np.float64)

    def longest_samples(self) -> int:
        """To the end of the longest reverberation time."""
        return math.ceil(self.seconds[1] * self.sample_rate)

    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Compute the response, once."""
        return _room_response(
            int(parameters[0]), self.seconds, self.metres, self.sample_rate, channels
        )


@lru_cache(maxsize=512)
def _room_response(
    number: int,
    seconds: tuple[float, float],
    metres: tuple[float, float],
    sample_rate: int,
    channels: int,
) -> Tensor:
    """Response of the room of a number, shape (channels, L); see ``ShoeboxRoom``."""
    random = generator(number, ROOM, 0, 1)
    size = random.uniform(_SMALLEST, _LARGEST)
    time = random.uniform(*seconds)
    distance = random.uniform(*metres)
    inside = False
    while not inside:  # most places of a small room have too little space on most sides
        middle = random.uniform(_FROM_WALLS, size - _FROM_WALLS)
        direction = random.standard_normal(3) * [1, 1, 0.3]  # about as high as the microphones
        source = middle + distance * direction / np.linalg.norm(direction)
        inside = bool(((source >= _FROM_WALLS) & (source <= size - _FROM_WALLS)).all())
    angle = random.uniform(0, math.pi)
    places = (np.arange(channels) - (channels - 1) / 2)[:, None] * _APART
    microphones = middle + places * [math.cos(angle), math.sin(angle), 0]
    reflection = wall_reflection(size, time)
    response = np.stack(
        [
            shoebox_response(
                size, source, microphone, reflection, sample_rate, math.ceil(time * sample_rate)
            )
            for microphone in microphones
        ]
    )
    return torch.from_numpy(of_unit_energy(from_onset(response)))


def wall_reflection(size: Positions, seconds: float) -> float:
    """Part of the pressure that walls reflect, for a reverberation time.

    Eyring 1930, "Reverberation time in dead rooms": T = 24 ln(10) V / (-c S ln(1 - a)), and
    the pressure that is reflected is sqrt(1 - a).

    Args:
        size: Width, length and height, metres, shape (3,).
        seconds: Reverberation time, seconds.

    Returns:
        The factor, in (0, 1).
    """
    volume = size.prod()
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    return float(np.exp(-12 * math.log(10) * volume / (_METRES_PER_SECOND * surface * seconds)))


def shoebox_response(
    size: Positions,
    source: Positions,
    microphone: Positions,
    reflection: float,
    sample_rate: int,
    samples: int,
) -> Audio:
    """Impulse response of a rectangular room by the image-source method.

    Allen and Berkley 1979, "Image method for efficiently simulating small-room acoustics": the
    source is mirrored in the walls again and again, and each image arrives after its distance,
    rounded to a sample, with its amplitude over its distance. Each reflection inverts the sign
    (negative reflection coefficients, Lehmann and Johansson 2008, "Prediction of energy decay in
    room impulse responses simulated with an image-source model"): with positive ones thousands
    of images add up to a rumble, which Allen and Berkley filter out.

    Args:
        size: Width, length and height, metres, shape (3,).
        source: Where the source is, metres from a corner, shape (3,).
        microphone: Where the microphone is, shape (3,).
        reflection: Part of the pressure that each wall reflects, in [0, 1).
        sample_rate: Sample rate, Hz.
        samples: Length of the response.

    Returns:
        The response, a source of amplitude 1 at a distance of 1 metre having amplitude 1, shape
        (samples,).
    """
    farthest = samples * _METRES_PER_SECOND / sample_rate
    squares, reflections = zip(
        *(_images(*axis, farthest) for axis in zip(size, source, microphone, strict=True)),
        strict=True,
    )
    plane = (squares[1][:, None] + squares[2]).ravel()
    plane_reflections = (reflections[1][:, None] + reflections[2]).ravel()
    near = np.argsort(plane)
    plane, plane_reflections = plane[near], plane_reflections[near]
    # More reflections than any image within reach has, so that an index tells a factor.
    factors = (-reflection) ** np.arange(reflections[0].max() + plane_reflections.max() + 1)
    response = np.zeros(samples)
    for square, number in zip(squares[0], reflections[0], strict=True):
        reached = np.searchsorted(plane, farthest**2 - square)
        distances = np.sqrt(plane[:reached] + square)
        arrivals = np.rint(distances * (sample_rate / _METRES_PER_SECOND)).astype(np.int64)
        amplitudes = factors[plane_reflections[:reached] + number] / distances
        response += np.bincount(arrivals, amplitudes, samples + 1)[:samples]
    return np.asarray(response, np.float32)


def _images(
    size: float, source: float, microphone: float, farthest: float
) -> tuple[Positions, npt.NDArray[np.int64]]:
    """Images along one axis: squared distance from the microphone, and number of reflections."""
    turns = np.arange(-math.ceil(farthest / (2 * size)) - 1, math.ceil(farthest / (2 * size)) + 2)
    same, mirrored = 2 * turns * size + source, 2 * turns * size - source
    distances = np.concatenate([same, mirrored]) - microphone
    # Of n turns the image has met both walls n times; the mirrored one once less or more.
    reflections = np.concatenate([np.abs(2 * turns), np.abs(2 * turns - 1)])
    return distances**2, reflections
