"""Effects of the mix: rooms, echoes, chorus, drive, equaliser, compressor and ducking.

Signals are as in :mod:`datamodules.demo.synthesis`; all effects but :func:`room` take and return
stereo signals of shape (T, 2) and keep their length.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.signal import oaconvolve

from datamodules.demo.synthesis import CONTROL_HOP, SAMPLE_RATE, Signal, band, follow, samples


def room(
    seconds: float, generator: np.random.Generator, high_hz: float = 6500.0, delay: float = 0.018
) -> Signal:
    """Impulse response of a room: decaying noise of unit energy per channel, shape (N, 2).

    Args:
        seconds: Reverberation time, in which the level falls by 60 dB.
        generator: Source of the noise.
        high_hz: Upper edge of the band that the walls reflect.
        delay: Time before the first reflection, in seconds.
    """
    time = np.arange(samples(seconds * 1.1)) / SAMPLE_RATE
    noise = generator.standard_normal((len(time), 2)) * 10.0 ** (-3.0 * time / seconds)[:, None]
    response = band(noise, 180.0, high_hz)
    response /= np.sqrt(np.mean(np.sum(response**2, axis=0)))
    return np.concatenate([np.zeros((samples(delay), 2)), response])


def reverberate(sound: Signal, response: Signal, level_db: float) -> Signal:
    """Add the reverberation of a room at a level relative to the sound."""
    wet = oaconvolve(sound, response, axes=0)[: len(sound)]
    return np.asarray(sound + 10.0 ** (level_db / 20.0) * wet)


def echo(sound: Signal, seconds: float, level: float, feedback: float = 0.4) -> Signal:
    """Add echoes that alternate between the channels and lose treble and level."""
    wet, late, step = np.copy(sound), sound, samples(seconds)
    for repeat in range(4):
        if step * (repeat + 1) >= len(sound):
            break
        late = band(late, 200.0, 3500.0)[:, ::-1]
        wet[step * (repeat + 1) :] += level * feedback**repeat * late[: -step * (repeat + 1)]
    return wet


def chorus(sound: Signal, depth_seconds: float, rate_hz: float, level: float) -> Signal:
    """Add a copy whose delay swings, in opposite directions in the two channels."""
    time = np.arange(len(sound), dtype=np.float64)
    swing = depth_seconds * SAMPLE_RATE * np.sin(2 * np.pi * rate_hz * time / SAMPLE_RATE)
    rest = 1.5 * depth_seconds * SAMPLE_RATE
    wet = [
        np.interp(time - rest - side * swing, time, sound[:, channel], left=0.0)
        for channel, side in enumerate((1.0, -1.0))
    ]
    return np.asarray((sound + level * np.stack(wet, axis=-1)) / (1.0 + level))


def drive(sound: Signal, amount: float) -> Signal:
    """Saturate: peaks are clipped softly at ``1 / amount`` of the highest, above 1 audibly."""
    peak = np.abs(sound).max()
    return np.asarray(np.tanh(amount * sound / peak) * peak / np.tanh(amount)) if peak else sound


def shelf(sound: Signal, edge_hz: float, gain_db: float) -> Signal:
    """Raise or lower all above a frequency."""
    return np.asarray(sound + (10.0 ** (gain_db / 20.0) - 1.0) * band(sound, edge_hz))


def tremolo(sound: Signal, rate_hz: float, depth: float, opposite: bool) -> Signal:
    """Swing the level; in opposite directions in the two channels, the sound wanders."""
    wave = depth * np.sin(2 * np.pi * rate_hz * np.arange(len(sound)) / SAMPLE_RATE)
    return np.asarray(sound * (1.0 + wave[:, None] * np.array([1.0, -1.0 if opposite else 1.0])))


def _at_audio_rate(control: Signal, length: int) -> Signal:
    """Interpolate a curve of one value per :data:`CONTROL_HOP`, at block centres, to (T, 1)."""
    centres = (np.arange(len(control)) + 0.5) * CONTROL_HOP
    return np.interp(np.arange(length), centres, control)[:, None]


def _blocks(sound: Signal) -> Signal:
    """Blocks of :data:`CONTROL_HOP` samples, padded by zeros, shape (N, hop, 2)."""
    padded = np.pad(sound, ((0, -len(sound) % CONTROL_HOP), (0, 0)))
    return padded.reshape(-1, CONTROL_HOP, sound.shape[1])


def active_rms(sound: Signal) -> float:
    """Root mean square of the parts within 30 dB of the loudest tenth of a second; 0 if silent."""
    size = samples(0.1)
    power = np.mean(sound[: len(sound) // size * size].reshape(-1, 2 * size) ** 2, axis=1)
    return float(np.sqrt(np.mean(power[power >= 1e-3 * power.max()])))


def compress(sound: Signal, ratio: float) -> Signal:
    """Divide level changes (dB) above a quarter of the active level by a ratio."""
    level = np.sqrt(follow(np.mean(_blocks(sound) ** 2, axis=(1, 2)), 0.03, _CONTROL_RATE_HZ))
    floor = 0.25 * active_rms(sound) + 1e-9
    gain = np.maximum(level / floor, 1.0) ** (1.0 / ratio - 1.0)
    return np.asarray(sound * _at_audio_rate(gain, len(sound)))


def duck(sound: Signal, onsets_seconds: Sequence[float], depth: float) -> Signal:
    """Lower the sound at each onset of a kick, as a compressor does that listens to it."""
    gain = np.ones(len(sound) // CONTROL_HOP + 1)
    shape = 1.0 - depth * np.exp(
        -np.arange(round(0.5 * _CONTROL_RATE_HZ)) / (0.1 * _CONTROL_RATE_HZ)
    )
    for onset in onsets_seconds:
        start = round(onset * _CONTROL_RATE_HZ)
        held = gain[start : start + len(shape)]
        np.minimum(held, shape[: len(held)], out=held)
    return np.asarray(sound * _at_audio_rate(gain, len(sound)))


def limiting_gain(peaks: Signal, ceiling: float) -> Signal:
    """Gain (T, 1) that keeps a signal below a ceiling.

    Args:
        peaks: Largest magnitude at each time, shape (T,).
        ceiling: Largest magnitude after the gain.
    """
    needed = np.minimum(ceiling / (_blocks(peaks[:, None]).max(axis=(1, 2)) + 1e-9), 1.0)
    # Lowest of 17 blocks, then their mean over 13: no gain is above what its neighbours need.
    return _at_audio_rate(uniform_filter1d(minimum_filter1d(needed, 17), 13), len(peaks))


_CONTROL_RATE_HZ = SAMPLE_RATE / CONTROL_HOP
