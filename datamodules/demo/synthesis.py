"""Building blocks of the synthesis: notes, time, oscillators and filters.

Signals are float64 at :data:`SAMPLE_RATE`, mono ``(T,)`` or stereo ``(T, 2)``. Levels are
arbitrary: the mix sets the loudness of each stem.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, lfilter, sosfilt

Signal = npt.NDArray[np.float64]

SAMPLE_RATE = 44_100
CONTROL_HOP = 256
"""Samples between updates of a moving filter: 5.8 ms, shorter than any glide in the music."""


@dataclass(frozen=True)
class Note:
    """A note of the score.

    Args:
        start_seconds: Onset.
        duration_seconds: Time until the release.
        pitch: MIDI note number, 69 is 440 Hz. Drums ignore it.
        velocity: Strength in (0, 1].
        sound: Name of a drum, or the syllable of a voice.
    """

    start_seconds: float
    duration_seconds: float
    pitch: float = 0.0
    velocity: float = 1.0
    sound: str = ""


def samples(seconds: float) -> int:
    """Samples of a duration in seconds."""
    return round(seconds * SAMPLE_RATE)


def hertz(pitch: Signal | float) -> Signal:
    """Frequency of a MIDI pitch in equal temperament."""
    return np.asarray(440.0 * 2.0 ** ((np.asarray(pitch, dtype=np.float64) - 69.0) / 12.0))


def instants(seconds: float) -> Signal:
    """Time axis of a sound, seconds, shape (T,)."""
    return np.arange(samples(seconds), dtype=np.float64) / SAMPLE_RATE


def phase(frequency_hz: Signal) -> Signal:
    """Phase of an oscillator in cycles, shape (T,)."""
    return np.cumsum(frequency_hz) / SAMPLE_RATE


def saw(frequency_hz: Signal, offset: float = 0.0) -> Signal:
    """Sawtooth in [-1, 1], its jumps smoothed over two samples (PolyBLEP) against aliasing.

    ``frequency_hz`` and the result have shape (T,); ``offset`` is the initial phase in cycles.
    """
    step = frequency_hz / SAMPLE_RATE
    turn = (np.cumsum(step) + offset) % 1.0
    wave = 2.0 * turn - 1.0
    after, before = turn < step, turn > 1.0 - step
    wave[after] += (1.0 - turn[after] / step[after]) ** 2
    wave[before] -= (1.0 + (turn[before] - 1.0) / step[before]) ** 2
    return wave


@functools.lru_cache(maxsize=256)
def _band_sections(low_hz: float, high_hz: float) -> Signal:
    if low_hz <= 0.0:
        return np.asarray(butter(2, high_hz, "lowpass", fs=SAMPLE_RATE, output="sos"))
    if high_hz >= SAMPLE_RATE / 2:
        return np.asarray(butter(2, low_hz, "highpass", fs=SAMPLE_RATE, output="sos"))
    return np.asarray(butter(2, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE, output="sos"))


def band(signal: Signal, low_hz: float = 0.0, high_hz: float = SAMPLE_RATE) -> Signal:
    """Band-pass filter, 12 dB per octave; time is the first axis."""
    return np.asarray(sosfilt(_band_sections(low_hz, high_hz), signal, axis=0))


def follow(target: Signal, seconds: float, rate_hz: float = SAMPLE_RATE) -> Signal:
    """Smooth a curve by a one-pole low-pass filter with a time constant, from its first value."""
    pole = np.exp(-1.0 / (seconds * rate_hz))
    start = pole * target[:1]
    return np.asarray(lfilter([1.0 - pole], [1.0, -pole], target, axis=0, zi=start)[0])


def lowpass(cutoff_hz: Signal, resonance: float) -> Signal:
    """Second-order low-pass sections per control frame (bilinear transform), shape (N, 1, 6)."""
    angle = 2.0 * np.pi * np.minimum(cutoff_hz, 0.45 * SAMPLE_RATE) / SAMPLE_RATE
    alpha, cosine = np.sin(angle) / (2.0 * resonance), np.cos(angle)
    gain = (1.0 - cosine) / 2.0
    sections = np.stack([gain, 2 * gain, gain, 1 + alpha, -2 * cosine, 1 - alpha], axis=-1)
    return np.asarray(sections / sections[:, 3:4])[:, None, :]


def moving_filter(signal: Signal, sections: Signal) -> Signal:
    """Filter with sections that change every :data:`CONTROL_HOP` samples.

    Args:
        signal: Shape (T,) or (T, C).
        sections: Second-order sections per control frame, shape (N, K, 6), N hops >= T.
    """
    state = np.zeros((sections.shape[1], 2, *signal.shape[1:]))
    filtered = np.empty_like(signal)
    for frame, start in enumerate(range(0, len(signal), CONTROL_HOP)):
        block = slice(start, start + CONTROL_HOP)
        if not signal[block].any() and np.abs(state).max() < 1e-6:
            filtered[block] = 0.0  # skips the pauses of a voice
            continue
        filtered[block], state = sosfilt(sections[frame], signal[block], axis=0, zi=state)
    return filtered


def place(track: Signal, sound: Signal, start_seconds: float, pan: float = 0.0) -> None:
    """Add a sound to a stereo track in place, cut at the end of the track.

    Args:
        track: Shape (T, 2).
        sound: Mono (N,), panned with equal power, or stereo (N, 2).
        start_seconds: Position in the track.
        pan: From -1, left, to 1, right.
    """
    start = max(samples(start_seconds), 0)
    sound = sound[: max(len(track) - start, 0)]
    if sound.ndim == 1:
        angle = (pan + 1.0) * np.pi / 4.0
        sound = sound[:, None] * np.array([np.cos(angle), np.sin(angle)])
    track[start : start + len(sound)] += sound
