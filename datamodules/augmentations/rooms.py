"""Augmentations by room impulse responses: recorded, simulated, or decaying noise.

The result is the convolution alone, without the dry signal; ``filters.Reverb`` adds reverberation
to a dry stem. Responses begin with the direct sound and have unit energy (mean over channels),
which preserves timing and, approximately, loudness. Meant for ``datamodules.degradation``, where
the targets stay dry.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.augmentations.base import (
    KEYS,
    Parameters,
    Probability,
    StemAugmentation,
    checked_range,
    require,
)
from datamodules.augmentations.convolution import (
    convolve,
    recorded_response,
    scale_to_unit_energy,
    stack_responses,
    trim_to_onset,
)
from datamodules.augmentations.recordings import Recordings
from datamodules.files.audio import Audio
from datamodules.randomness import ROOM, generator

Positions = npt.NDArray[np.float64]

_SPEED_OF_SOUND = 343.0  # metres per second, in air of 20 degrees Celsius
# Ranges of simulated rooms: width, length and height, metres.
_SMALLEST, _LARGEST = np.array([3.0, 3.0, 2.4]), np.array([8.0, 10.0, 4.0])
_WALL_DISTANCE = 0.5  # least distance of source and centre of the microphones from walls, metres
_MICROPHONE_SPACING = 0.2  # metres


class Room(StemAugmentation):
    """Base of convolution with an impulse response; the first parameter is -1 for none."""

    neutral = -1.0

    def alter(self, waveforms: Tensor, parameters: Tensor) -> Tensor:
        """Convolve each stem with its response; the tail ends with the crop."""
        _, channels, samples = waveforms.shape
        responses = [self.response(row, channels) for row in parameters.tolist()]
        stacked = stack_responses(responses, min(samples, self.max_samples()))
        return convolve(waveforms, stacked.to(waveforms))

    @abstractmethod
    def max_samples(self) -> int:
        """Length of the longest possible response, samples."""

    @abstractmethod
    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Return the impulse response for the drawn parameters of a stem.

        It has unit energy (mean over channels), is on the CPU, and has shape (channels, L).
        """


class RecordedRoom(Room):
    """Convolution with an impulse response drawn from a folder.

    A response with another sample rate is resampled; one with a different number of channels than
    the stem is averaged, and the average is applied to all channels.

    Args:
        folder: Folder of WAV, FLAC, Ogg or MP3 files, searched with its subfolders.
        probability: Probability per stem, one number or one per stem.

    Raises:
        DataError: The folder is missing or empty, or a file in it is damaged or silent.
    """

    def __init__(self, folder: str, probability: Probability = 1.0) -> None:
        super().__init__(probability)
        self.recordings = Recordings(folder, "impulse responses")

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the index of a file for each stem."""
        return random.integers(len(self.recordings), size=(stems, 1)).astype(np.float64)

    def max_samples(self) -> int:
        """Length of the longest file."""
        return self.recordings.longest_samples(self.sample_rate)

    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Read the file; cached."""
        file = self.recordings.file(int(parameters[0]))
        return recorded_response(*file, self.sample_rate, channels)


class DecayingNoise(Room):
    """Statistical room model: direct sound, then exponentially decaying white noise.

    The noise is independent in each channel (Moorer 1979, "About this reverberation business").

    Args:
        lowest_seconds: Shortest reverberation time (to -60 dB), seconds.
        highest_seconds: Longest reverberation time, seconds.
        lowest_db: Lowest direct-to-reverberant energy ratio, dB.
        highest_db: Highest direct-to-reverberant energy ratio, dB.
        probability: Probability per stem, one number or one per stem.
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
        self.range_seconds = checked_range("seconds", lowest_seconds, highest_seconds, above=0)
        self.range_db = checked_range("db", lowest_db, highest_db)

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw reverberation time, ratio in dB and the key of the noise for each stem."""
        times = random.uniform(*self.range_seconds, stems)
        ratios = random.uniform(*self.range_db, stems)
        return np.column_stack([times, ratios, random.integers(KEYS, size=stems)])

    def max_samples(self) -> int:
        """Direct sound and the longest reverberation time, after which noise is at -60 dB."""
        return 1 + math.ceil(self.range_seconds[1] * self.sample_rate)

    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Generate the response."""
        seconds, ratio_db, key = parameters
        time = np.arange(math.ceil(seconds * self.sample_rate)) / self.sample_rate
        noise = generator(int(key), ROOM, 0, 0).standard_normal((channels, len(time)))
        tail = scale_to_unit_energy(noise * 10 ** (-3 * time / seconds)) * 10 ** (-ratio_db / 20)
        direct = np.ones((channels, 1))
        return torch.from_numpy(scale_to_unit_energy(np.concatenate([direct, tail], 1)))


class ShoeboxRoom(Room):
    """Convolution with a rectangular room, simulated by the image-source method.

    Room n is the same in every run: 3 to 8 by 3 to 10 by 2.4 to 4 metres, with a source and one
    microphone per channel, 20 cm apart. All walls have the same reflection coefficient, which
    Eyring's formula gives for the drawn reverberation time. In evaluation mode (``nn.Module.eval``)
    a different set of rooms is drawn from.

    Args:
        lowest_seconds: Shortest reverberation time (to -60 dB), seconds.
        highest_seconds: Longest reverberation time, seconds.
        lowest_metres: Smallest distance between source and microphones, metres.
        highest_metres: Largest distance, at most 2 metres, which fits into all rooms.
        rooms: Number of rooms; each is simulated when it is first drawn.
        probability: Probability per stem, one number or one per stem.
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
        self.range_seconds = checked_range("seconds", lowest_seconds, highest_seconds, above=0)
        self.range_metres = checked_range("metres", lowest_metres, highest_metres, above=0)
        require(highest_metres <= 2, "highest_metres", highest_metres, "a distance up to 2")
        require(1 <= rooms <= KEYS // 2, "rooms", rooms, f"a number from 1 to {KEYS // 2}")
        self.rooms = rooms

    def draw_parameters(self, random: np.random.Generator, stems: int) -> Parameters:
        """Draw the index of a room for each stem."""
        first = 0 if self.training else self.rooms
        return first + random.integers(self.rooms, size=(stems, 1)).astype(np.float64)

    def max_samples(self) -> int:
        """The longest reverberation time."""
        return math.ceil(self.range_seconds[1] * self.sample_rate)

    def response(self, parameters: list[float], channels: int) -> Tensor:
        """Simulate the response; cached."""
        ranges = self.range_seconds, self.range_metres
        return _simulate_room(int(parameters[0]), *ranges, self.sample_rate, channels)


@lru_cache(maxsize=512)
def _simulate_room(
    number: int,
    range_seconds: tuple[float, float],
    range_metres: tuple[float, float],
    sample_rate: int,
    channels: int,
) -> Tensor:
    """Impulse response of a ``ShoeboxRoom`` by its index, shape (channels, L)."""
    random = generator(number, ROOM, 0, 1)
    size = random.uniform(_SMALLEST, _LARGEST)
    time = random.uniform(*range_seconds)
    distance = random.uniform(*range_metres)
    inside = False
    while not inside:  # draw again where the source would be too close to a wall
        middle = random.uniform(_WALL_DISTANCE, size - _WALL_DISTANCE)
        direction = random.standard_normal(3) * [1, 1, 0.3]  # mostly horizontal
        source = middle + distance * direction / np.linalg.norm(direction)
        inside = bool(((source >= _WALL_DISTANCE) & (source <= size - _WALL_DISTANCE)).all())
    angle = random.uniform(0, math.pi)
    places = (np.arange(channels) - (channels - 1) / 2)[:, None] * _MICROPHONE_SPACING
    microphones = middle + places * [math.cos(angle), math.sin(angle), 0]
    reflection, samples = wall_reflection(size, time), math.ceil(time * sample_rate)
    responses = [
        shoebox_response(size, source, microphone, reflection, sample_rate, samples)
        for microphone in microphones
    ]
    return torch.from_numpy(scale_to_unit_energy(trim_to_onset(np.stack(responses))))


def wall_reflection(size: Positions, seconds: float) -> float:
    """Compute the pressure reflection coefficient of walls from a reverberation time.

    Eyring 1930, "Reverberation time in dead rooms": T = 24 ln(10) V / (-c S ln(1 - a)); the
    pressure reflection coefficient is sqrt(1 - a).

    Args:
        size: Width, length and height, metres, shape (3,).
        seconds: Reverberation time, seconds.
    """
    volume = size.prod()
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    return float(np.exp(-12 * math.log(10) * volume / (_SPEED_OF_SOUND * surface * seconds)))


def shoebox_response(
    size: Positions,
    source: Positions,
    microphone: Positions,
    reflection: float,
    sample_rate: int,
    samples: int,
) -> Audio:
    """Simulate the impulse response of a rectangular room by the image-source method.

    Allen and Berkley 1979, "Image method for efficiently simulating small-room acoustics": the
    source is mirrored repeatedly at the walls. Each image arrives after a delay proportional to
    its distance, rounded to a sample, with an amplitude inversely proportional to it. Reflections
    invert the sign (negative coefficients, Lehmann and Johansson 2008, "Prediction of energy decay
    in room impulse responses simulated with an image-source model"): positive ones cause
    low-frequency rumble, which Allen and Berkley remove by a filter.

    Args:
        size: Width, length and height, metres, shape (3,).
        source: Position of the source, metres from a corner, shape (3,).
        microphone: Position of the microphone, shape (3,).
        reflection: Magnitude of the walls' reflection coefficient, in [0, 1).
        sample_rate: Sample rate, Hz.
        samples: Length of the response.

    Returns:
        The response, shape (samples,); an image at 1 metre without reflections has amplitude 1.
    """
    farthest = samples * _SPEED_OF_SOUND / sample_rate
    squares, reflections = zip(
        *(_images(*axis, farthest) for axis in zip(size, source, microphone, strict=True)),
        strict=True,
    )
    # Images in the plane of the last two axes, nearest first.
    plane = (squares[1][:, None] + squares[2]).ravel()
    plane_reflections = (reflections[1][:, None] + reflections[2]).ravel()
    nearest = np.argsort(plane)
    plane, plane_reflections = plane[nearest], plane_reflections[nearest]
    # Amplitude by number of reflections.
    factors = (-reflection) ** np.arange(reflections[0].max() + plane_reflections.max() + 1)
    response = np.zeros(samples)
    for square, number in zip(squares[0], reflections[0], strict=True):
        within = np.searchsorted(plane, farthest**2 - square)
        distances = np.sqrt(plane[:within] + square)
        arrivals = np.rint(distances * (sample_rate / _SPEED_OF_SOUND)).astype(np.int64)
        amplitudes = factors[plane_reflections[:within] + number] / distances
        response += np.bincount(arrivals, amplitudes, samples + 1)[:samples]
    return np.asarray(response, np.float32)


def _images(
    size: float, source: float, microphone: float, farthest: float
) -> tuple[Positions, npt.NDArray[np.int64]]:
    """Images along one axis: squared distance from the microphone, and number of reflections."""
    periods = np.arange(-math.ceil(farthest / (2 * size)) - 1, math.ceil(farthest / (2 * size)) + 2)
    same, mirrored = 2 * periods * size + source, 2 * periods * size - source
    distances = np.concatenate([same, mirrored]) - microphone
    # An image n periods away has n reflections at each wall; a mirrored one has one less or more.
    reflections = np.concatenate([np.abs(2 * periods), np.abs(2 * periods - 1)])
    return distances**2, reflections
