"""Rooms: recorded, simulated by the image-source method, and decaying noise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from datamodules.augmentations.rooms import (
    DecayingNoise,
    RecordedRoom,
    Room,
    ShoeboxRoom,
    shoebox_response,
    wall_reflection,
)
from datamodules.randomness import generator

TEST_DATA = os.environ.get("STEMLAB_TEST_DATA")
RATE = 44100
SIZE, SOURCE, MICROPHONE = np.array([4.0, 5, 3]), np.array([1.0, 2, 1.5]), np.array([3.0, 1, 1.2])


def impulse_response(room: Room, samples: int = RATE, index: int = 0) -> torch.Tensor:
    """Response to an impulse in both channels, shape (2, T)."""
    impulse = torch.zeros(1, 1, 2, samples)
    impulse[..., 0] = 1
    parameters = torch.from_numpy(room.draw(generator(0, 5, 0, index), 1))[None]
    response: torch.Tensor = room(impulse, parameters)[0, 0]
    return response


def decay_seconds(response: npt.NDArray[np.float64]) -> float:
    """Reverberation time by Schroeder's backward integration, from -5 to -25 dB."""
    left = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(left / left[0])
    begin, end = np.argmax(level < -5), np.argmax(level < -25)
    return float(3 * (end - begin) / RATE)


# ------------------------------------------------------------------ image sources


def test_without_reflection_there_is_direct_sound_only() -> None:
    response = shoebox_response(SIZE, SOURCE, MICROPHONE, 0.0, RATE, 2000)
    distance = np.linalg.norm(SOURCE - MICROPHONE)
    assert np.flatnonzero(response).tolist() == [round(distance / 343 * RATE)]
    assert response.max() == pytest.approx(1 / distance)


def test_images_equal_repeated_mirroring() -> None:
    """The reference mirrors the source wall by wall."""
    order, reflection, samples = 8, 0.7, 1500
    images = {tuple(SOURCE): 0}
    newest = [SOURCE]
    for reflections in range(1, order + 1):
        mirrored = []
        for image in newest:
            for axis in range(3):
                for wall in (0.0, SIZE[axis]):
                    other = image.copy()
                    other[axis] = 2 * wall - other[axis]
                    key = tuple(np.round(other, 9))
                    if key not in images:
                        images[key] = reflections
                        mirrored.append(other)
        newest = mirrored
    expected = np.zeros(samples + 1)
    for place, reflections in images.items():
        distance = np.linalg.norm(np.array(place) - MICROPHONE)
        arrival = min(round(distance / 343 * RATE), samples)
        expected[arrival] += (-reflection) ** reflections / distance
    found = shoebox_response(SIZE, SOURCE, MICROPHONE, reflection, RATE, samples)
    assert np.count_nonzero(found) > 50
    assert np.abs(found - expected[:-1]).max() < 1e-6


def test_wall_reflection_gives_the_reverberation_time() -> None:
    # Eyring's reverberation time from the reflected energy.
    reflection = wall_reflection(SIZE, 0.5)
    surface = 2 * (4 * 5 + 5 * 3 + 3 * 4)
    time = 24 * np.log(10) * 60 / (-343 * surface * np.log(reflection**2))
    assert time == pytest.approx(0.5)
    times = [
        decay_seconds(
            shoebox_response(
                SIZE, SOURCE, MICROPHONE, wall_reflection(SIZE, time), RATE, RATE
            ).astype(float)
        )
        for time in (0.2, 0.5)
    ]
    # Not exactly: the sound field of a simulated room is not diffuse.
    assert times == pytest.approx([0.2, 0.5], rel=0.35)


def test_simulated_rooms_have_no_low_frequency_rumble() -> None:
    responses = [
        impulse_response(ShoeboxRoom(0.6, 0.6), index=index).double() for index in range(5)
    ]
    power = torch.fft.rfft(torch.stack(responses)).abs().square().mean((0, 1))  # bins of 1 Hz
    low, high = power[10:60].mean(), power[200:20000].mean()
    assert low < 2 * high


# ------------------------------------------------------------------ all rooms


@pytest.mark.parametrize("room", [ShoeboxRoom(), DecayingNoise()])
def test_responses_begin_with_direct_sound_and_have_unit_energy(room: Room) -> None:
    for index in range(10):
        response = impulse_response(room, index=index)
        assert response.abs().amax(0)[:1] >= 0.1 * response.abs().max()
        assert float(response.square().sum()) == pytest.approx(2, rel=1e-4)
        assert not torch.allclose(response[0], response[1])
        assert response[:, room.max_samples() :].abs().max() < 1e-5


def test_evaluation_mode_draws_other_rooms() -> None:
    room = ShoeboxRoom(rooms=5)

    def numbers() -> set[float]:
        return {float(room.draw(generator(0, 5, 0, index), 1)[0, 0]) for index in range(100)}

    assert numbers() == {0, 1, 2, 3, 4}
    room.eval()
    assert numbers() == {5, 6, 7, 8, 9}


def test_decaying_noise_has_reverberation_time_and_energy_ratio() -> None:
    room = DecayingNoise(0.4, 0.4, 3.0, 3.0)
    response = impulse_response(room)
    direct, tail = response[:, 0], response[:, 1:]
    assert float(direct.square().sum() / tail.square().sum()) == pytest.approx(10**0.3, rel=1e-3)
    assert decay_seconds(tail[0].double().numpy()) == pytest.approx(0.4, rel=0.1)


def test_recorded_room_convolves_with_the_normalised_response(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 0.6, 0.0, 0.8]), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", np.array([[0.5, -0.5]]), RATE, subtype="FLOAT")
    room = RecordedRoom(str(tmp_path))
    music = torch.arange(1.0, 6).expand(2, 1, 2, 5)
    found = room(music, torch.tensor([0.0, 1.0]).view(2, 1, 1))
    first = torch.tensor([0.6, 1.2, 2.6, 4.0, 5.4])
    assert torch.allclose(found[0, 0], first.expand(2, 5))
    assert torch.allclose(found[1, 0], torch.stack([music[0, 0, 0], -music[0, 0, 0]]))
    drawn = {float(room.draw(generator(0, 5, 0, index), 1)[0, 0]) for index in range(20)}
    assert drawn == {0, 1}


@pytest.mark.skipif(not TEST_DATA, reason="STEMLAB_TEST_DATA is not set")
def test_real_plate_responses() -> None:
    room = RecordedRoom(f"{TEST_DATA}/impulse_responses")
    names = [path.name for path in room.recordings.files]
    for number in (names.index("emt_140_bright_1.wav"), names.index("emt_140_medium_5.wav")):
        impulse = torch.zeros(1, 1, 2, 6 * RATE)
        impulse[..., 0] = 1
        response = room(impulse, torch.tensor([[[float(number)]]]))[0, 0]
        # The longest response is cut.
        assert float(response.square().sum()) == pytest.approx(2, rel=1e-2)
        assert decay_seconds(response[0].double().numpy()) > 0.5
