"""Singing voice of the demo corpus: source-filter synthesis of a melody with syllables.

Glottal pulses and breath noise pass through the resonances of a vocal tract that moves from vowel
to vowel. Signals are as in :mod:`datamodules.demo.synthesis`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.demo.synthesis import (
    CONTROL_HOP,
    SAMPLE_RATE,
    Note,
    Signal,
    band,
    follow,
    hertz,
    instants,
    moving_filter,
    samples,
    saw,
)


@dataclass(frozen=True)
class Voice:
    """A singer.

    Args:
        tract: Factor on the formants of an adult man, whose vocal tract is the longest.
        lowest: Lowest note of the comfortable range, MIDI pitch.
        vibrato_hz: Rate of the vibrato.
        vibrato_cents: Depth of the vibrato of long notes, to each side.
        breath: Level of breath noise.
        tilt_hz: Cutoff of the glottal pulses: high for a pressed, bright voice.
    """

    tract: float
    lowest: float
    vibrato_hz: float = 5.5
    vibrato_cents: float = 45.0
    breath: float = 0.03
    tilt_hz: float = 2500.0


# First three formants of men, Hz: means of Peterson and Barney 1952, table II.
_VOWELS = {
    "a": (730.0, 1090.0, 2440.0),
    "e": (530.0, 1840.0, 2480.0),
    "i": (270.0, 2290.0, 3010.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
_NASAL = (250.0, 1200.0, 2300.0)
_UPPER_HZ = (3200.0, 3900.0)  # with the third they form the singer's formant
_BANDWIDTHS_HZ = np.array([70.0, 90.0, 120.0, 160.0, 220.0])

# Noise of a consonant: lowest and highest frequency in Hz, seconds, level (0: voiced).
_CONSONANTS = {
    "s": (4800.0, 11000.0, 0.09, 0.16),
    "f": (1800.0, 12000.0, 0.07, 0.07),
    "t": (3000.0, 9000.0, 0.022, 0.35),
    "k": (1300.0, 3400.0, 0.03, 0.35),
    "h": (700.0, 4500.0, 0.06, 0.09),
    "m": (0.0, 0.0, 0.07, 0.0),
    "l": (0.0, 0.0, 0.05, 0.0),
}
CONSONANTS, VOWELS = "".join(_CONSONANTS), "".join(_VOWELS)
"""Letters of a syllable: at most one consonant, then one or two vowels."""


def _resonators(formants_hz: Signal, bandwidths_hz: Signal) -> Signal:
    """Cascade of vocal tract resonances per control frame, with unit gain at 0 Hz.

    Klatt 1980, "Software for a cascade/parallel formant synthesizer", equation 2. Returns
    second-order sections (N, K, 6) for centre frequencies (N, K) and bandwidths (K,).
    """
    radius = np.exp(-np.pi * bandwidths_hz / SAMPLE_RATE)
    feedback = -2.0 * radius * np.cos(2.0 * np.pi * formants_hz / SAMPLE_RATE)
    sections = np.zeros((*formants_hz.shape, 6))
    sections[..., 3], sections[..., 4], sections[..., 5] = 1.0, feedback, radius**2
    sections[..., 0] = 1.0 + feedback + radius**2
    return sections


def sing(
    notes: Sequence[Note], voice: Voice, length: int, generator: np.random.Generator
) -> Signal:
    """Sing a melody.

    Args:
        notes: The melody, sorted by time; ``sound`` is a syllable: at most one of
            :data:`CONSONANTS`, then one or two of :data:`VOWELS`.
        voice: The singer.
        length: Length of the result, samples.
        generator: Source of jitter and breath noise.

    Returns:
        The voice, shape (length,).
    """
    rate_hz = SAMPLE_RATE / CONTROL_HOP
    frames = length // CONTROL_HOP + 2
    pitch, depth, level = np.full(frames, float(notes[0].pitch)), np.zeros(frames), np.zeros(frames)
    tract_hz = np.tile(np.array([*_VOWELS["a"], *_UPPER_HZ]), (frames, 1))
    consonants = np.zeros(length)
    ended = -1.0
    for note in notes:
        consonant, vowels = "", note.sound
        if vowels[0] in _CONSONANTS:
            consonant, vowels = vowels[0], vowels[1:]
        low_hz, high_hz, noise_seconds, noise_level = _CONSONANTS.get(consonant, (0, 0, 0, 0))
        begin = round(note.start_seconds * rate_hz)
        end = min(round((note.start_seconds + note.duration_seconds) * rate_hz), frames)
        age = np.arange(end - begin) / rate_hz
        pitch[begin:] = note.pitch
        if note.start_seconds > ended + 0.2:  # glide up to the first note of a phrase
            pitch[begin:end] -= 1.2 * np.exp(-age / 0.06)
        ended = note.start_seconds + note.duration_seconds
        depth[begin:end] = np.clip((age - 0.2) / 0.4, 0.0, 1.0)
        swell = 0.85 + 0.3 * np.sin(np.pi * np.arange(end - begin) / max(end - begin, 1))
        level[begin:end] = note.velocity * swell
        turn = begin + int(0.65 * (end - begin))
        tract_hz[begin:, :3] = _VOWELS[vowels[0]]
        tract_hz[turn:, :3] = _VOWELS[vowels[-1]]
        if consonant in ("m", "l"):
            closed = slice(begin, begin + round(noise_seconds * rate_hz))
            tract_hz[closed, :3] = _NASAL
            level[closed] *= 0.35
        elif consonant:  # an unvoiced consonant interrupts the voice, before the beat
            level[max(begin - round((noise_seconds + 0.02) * rate_hz), 0) : begin] = 0.0
            time = instants(noise_seconds * 2)
            shape = np.clip(time / 0.004, 0, 1) * np.exp(-((time / noise_seconds) ** 4))
            hiss = band(generator.standard_normal(len(time)), low_hz, high_hz) * shape
            start = max(samples(note.start_seconds - noise_seconds), 0)
            consonants[start : start + len(hiss)] += noise_level * note.velocity * hiss
    wander = generator.standard_normal((2, frames))
    jitter = 0.12 * follow(wander[0], 0.01, rate_hz) + 0.9 * follow(wander[1], 0.3, rate_hz)
    rate = voice.vibrato_hz * (1.0 + 0.6 * follow(wander[1], 0.5, rate_hz))
    vibrato = follow(depth, 0.05, rate_hz) * np.sin(2 * np.pi * np.cumsum(rate) / rate_hz)
    pitch = follow(follow(pitch, 0.022, rate_hz), 0.022, rate_hz)  # portamento
    pitch += voice.vibrato_cents / 100 * vibrato + jitter
    level = follow(follow(level, 0.012, rate_hz), 0.012, rate_hz) * (1.0 + 0.08 * vibrato)
    level[level < 1e-4] = 0.0
    tract_hz = follow(tract_hz, 0.028, rate_hz) * voice.tract
    # On notes above the first formant, singers raise that formant to the note.
    tract_hz[:, 0] = np.maximum(tract_hz[:, 0], 1.05 * hertz(pitch))

    control, audio = np.arange(frames) * CONTROL_HOP, np.arange(length)
    frequency_hz = np.interp(audio, control, hertz(pitch))
    loudness = np.interp(audio, control, level)
    # A sawtooth falls by 6 dB per octave, as the glottal flow does after lip radiation.
    pulses = saw(frequency_hz)
    breath = voice.breath * band(generator.standard_normal(length), 1000) * (1.2 + pulses)
    source = loudness * (follow(pulses, 1 / (2 * np.pi * voice.tilt_hz)) + breath)
    sung = moving_filter(source, _resonators(tract_hz, _BANDWIDTHS_HZ * voice.tract))
    sung = band(sung, 70) + 1.2 * band(sung, 1700)  # presence boost
    sung *= 0.25 / (np.sqrt(np.mean(sung**2)) + 1e-9)
    # The cascade has five resonances; unfiltered source replaces the higher ones.
    air = band(loudness * (0.05 * pulses * voice.tilt_hz / 2500.0 + 0.15 * breath), 4200, 13000)
    return np.asarray(sung + air + consonants)
