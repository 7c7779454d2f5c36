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
    phase,
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
        chest: Level of the fundamental relative to the pulses; high where the glottis stays open
            long.
        rough: Depth of the subharmonic of a hoarse or shouting voice, in [0, 1].
        sibilance: Factor on the noise of consonants.
    """

    tract: float
    lowest: float
    vibrato_hz: float = 5.5
    vibrato_cents: float = 45.0
    breath: float = 0.03
    tilt_hz: float = 2500.0
    chest: float = 0.5
    rough: float = 0.0
    sibilance: float = 1.0


def draw_voice(generator: np.random.Generator) -> Voice:
    """Draw a singer, from bass to soprano: high voices mostly have short vocal tracts."""
    lowest = generator.uniform(36.0, 57.0)
    tract = 0.95 + 0.011 * (lowest - 38.0) + generator.normal(0.0, 0.03)
    rough = generator.uniform(0.05, 0.35) if generator.random() < 0.3 else 0.0
    return Voice(
        float(tract),
        float(lowest),
        vibrato_hz=generator.uniform(4.6, 6.4),
        vibrato_cents=generator.uniform(5.0, 60.0),
        breath=10.0 ** generator.uniform(-2.0, -0.8),
        tilt_hz=10.0 ** generator.uniform(3.0, 3.7),
        chest=generator.uniform(0.2, 1.6),
        rough=rough,
        sibilance=10.0 ** generator.uniform(-0.4, 0.3),
    )


# First three formants of men, Hz: means of Peterson and Barney 1952, table II. E is the vowel of
# bet, A of bat, V of but, O of bought, I of bit, U of foot and R of bird.
_VOWELS = {
    "a": (730.0, 1090.0, 2440.0),
    "i": (270.0, 2290.0, 3010.0),
    "u": (300.0, 870.0, 2240.0),
    "E": (530.0, 1840.0, 2480.0),
    "A": (660.0, 1720.0, 2410.0),
    "V": (640.0, 1190.0, 2390.0),
    "O": (570.0, 840.0, 2410.0),
    "I": (390.0, 1990.0, 2550.0),
    "U": (440.0, 1020.0, 2240.0),
    "R": (490.0, 1350.0, 1690.0),
}
_UPPER_HZ = (3200.0, 3900.0)  # with the third they form the singer's formant
_BANDWIDTHS_HZ = np.array([70.0, 90.0, 120.0, 160.0, 220.0])

# Consonant: lowest and highest frequency of its noise in Hz, seconds, level of the noise, level of
# the voice meanwhile, and its formants if it is voiced.
_CONSONANTS: dict[str, tuple[float, float, float, float, float, tuple[float, ...]]] = {
    "s": (4800.0, 11000.0, 0.09, 0.16, 0.0, ()),
    "S": (2200.0, 7000.0, 0.09, 0.2, 0.0, ()),
    "f": (1800.0, 12000.0, 0.07, 0.07, 0.0, ()),
    "t": (3000.0, 9000.0, 0.022, 0.35, 0.0, ()),
    "k": (1300.0, 3400.0, 0.03, 0.35, 0.0, ()),
    "p": (400.0, 2000.0, 0.015, 0.25, 0.0, ()),
    "h": (700.0, 4500.0, 0.06, 0.09, 0.0, ()),
    "z": (4800.0, 11000.0, 0.07, 0.09, 0.3, (280.0, 1600.0, 2500.0)),
    "v": (1800.0, 9000.0, 0.05, 0.04, 0.35, (280.0, 1000.0, 2300.0)),
    "b": (400.0, 1500.0, 0.05, 0.06, 0.12, (200.0, 900.0, 2200.0)),
    "d": (2500.0, 7000.0, 0.04, 0.09, 0.12, (200.0, 1700.0, 2600.0)),
    "g": (1200.0, 3000.0, 0.04, 0.09, 0.12, (200.0, 2000.0, 2500.0)),
    "m": (0.0, 0.0, 0.07, 0.0, 0.35, (250.0, 1100.0, 2300.0)),
    "n": (0.0, 0.0, 0.06, 0.0, 0.35, (250.0, 1700.0, 2500.0)),
    "l": (0.0, 0.0, 0.05, 0.0, 0.5, (320.0, 1100.0, 2600.0)),
    "r": (0.0, 0.0, 0.06, 0.0, 0.5, (330.0, 1200.0, 1600.0)),
    "w": (0.0, 0.0, 0.06, 0.0, 0.5, (290.0, 650.0, 2200.0)),
    "j": (0.0, 0.0, 0.06, 0.0, 0.5, (270.0, 2200.0, 3000.0)),
}
CONSONANTS, VOWELS = "".join(_CONSONANTS), "".join(_VOWELS)
"""Letters of a syllable: at most one consonant, one or two vowels, at most one consonant."""


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
        notes: The melody, sorted by time; ``sound`` is a syllable of :data:`CONSONANTS` and
            :data:`VOWELS`.
        voice: The singer.
        length: Length of the result, samples.
        generator: Source of jitter and breath noise.

    Returns:
        The voice, shape (length,).
    """
    frames = length // CONTROL_HOP + 2
    pitch, depth, level = np.full(frames, float(notes[0].pitch)), np.zeros(frames), np.zeros(frames)
    tract_hz = np.tile(np.array([*_VOWELS["a"], *_UPPER_HZ]), (frames, 1))
    consonants = np.zeros(length)
    ended = -1.0
    for note in notes:
        onset, vowels, coda = _parts(note.sound)
        begin = round(note.start_seconds * _RATE_HZ)
        finish = note.start_seconds + note.duration_seconds
        end = min(round(finish * _RATE_HZ), frames)
        age = np.arange(end - begin) / _RATE_HZ
        pitch[begin:] = note.pitch
        if note.start_seconds > ended + 0.2:  # glide up to the first note of a phrase
            pitch[begin:end] -= 1.2 * np.exp(-age / 0.06)
        ended = finish
        depth[begin:end] = np.clip((age - 0.2) / 0.4, 0.0, 1.0)
        swell = 0.85 + 0.3 * np.sin(np.pi * np.arange(end - begin) / max(end - begin, 1))
        level[begin:end] = note.velocity * swell
        turn = begin + int(0.65 * (end - begin))
        tract_hz[begin:, :3] = _VOWELS[vowels[0]]
        tract_hz[turn:, :3] = _VOWELS[vowels[-1]]
        for letter, start in ((onset, note.start_seconds), (coda, finish)):
            if letter:
                _articulate(letter, start, level, tract_hz)
                low_hz, high_hz, seconds, loudness, *_ = _CONSONANTS[letter]
                if loudness:
                    time = instants(seconds * 2)
                    shape = np.clip(time / 0.004, 0, 1) * np.exp(-((time / seconds) ** 4))
                    hiss = band(generator.standard_normal(len(time)), low_hz, high_hz) * shape
                    place_at = max(samples(start - seconds), 0)
                    hiss = hiss[: max(length - place_at, 0)]
                    loudness *= voice.sibilance * note.velocity
                    consonants[place_at : place_at + len(hiss)] += loudness * hiss
    wander = generator.standard_normal((2, frames))
    jitter = 0.12 * follow(wander[0], 0.01, _RATE_HZ) + 0.9 * follow(wander[1], 0.3, _RATE_HZ)
    rate = voice.vibrato_hz * (1.0 + 0.6 * follow(wander[1], 0.5, _RATE_HZ))
    vibrato = follow(depth, 0.05, _RATE_HZ) * np.sin(2 * np.pi * np.cumsum(rate) / _RATE_HZ)
    pitch = follow(follow(pitch, 0.022, _RATE_HZ), 0.022, _RATE_HZ)  # portamento
    pitch += voice.vibrato_cents / 100 * vibrato + jitter
    level = follow(follow(level, 0.012, _RATE_HZ), 0.012, _RATE_HZ) * (1.0 + 0.08 * vibrato)
    level[level < 1e-4] = 0.0
    tract_hz = follow(tract_hz, 0.028, _RATE_HZ) * voice.tract
    # On notes above the first formant, singers raise that formant to the note.
    tract_hz[:, 0] = np.maximum(tract_hz[:, 0], 1.05 * hertz(pitch))
    return _voiced(pitch, level, tract_hz, voice, length, generator) + consonants


_RATE_HZ = SAMPLE_RATE / CONTROL_HOP


def _parts(syllable: str) -> tuple[str, str, str]:
    """First consonant, vowels and last consonant; consonants may be empty."""
    onset = syllable[0] if syllable[0] in _CONSONANTS else ""
    coda = syllable[-1] if syllable[-1] in _CONSONANTS else ""
    return onset, syllable[len(onset) : len(syllable) - len(coda)], coda


def _articulate(letter: str, start_seconds: float, level: Signal, tract_hz: Signal) -> None:
    """Change level and formants per control frame for a consonant, before the beat."""
    _, _, seconds, _, voiced, formants = _CONSONANTS[letter]
    start = round(start_seconds * _RATE_HZ)
    # A closure of 20 ms precedes an unvoiced consonant.
    held = slice(max(start - round((seconds + 0.02 * (not voiced)) * _RATE_HZ), 0), start)
    if voiced:
        level[held] = np.maximum(level[held], 0.5) * voiced
        tract_hz[held, :3] = formants
    else:
        level[held] = 0.0


def _voiced(
    pitch: Signal, level: Signal, tract_hz: Signal, voice: Voice, length: int,
    generator: np.random.Generator,
) -> Signal:  # fmt: skip
    """Glottal pulses and breath through the vocal tract, from curves per control frame."""
    control, audio = np.arange(len(pitch)) * CONTROL_HOP, np.arange(length)
    frequency_hz = np.interp(audio, control, hertz(pitch))
    loudness = np.interp(audio, control, level)
    # A sawtooth falls by 6 dB per octave, as the glottal flow does after lip radiation.
    pulses = saw(frequency_hz)
    if voice.rough:  # every second pulse is weaker
        turns = np.cumsum(frequency_hz) / SAMPLE_RATE
        pulses *= 1.0 - voice.rough * (np.floor(turns) % 2.0)
    breath = voice.breath * band(generator.standard_normal(length), 1000) * (1.2 + pulses)
    source = loudness * (follow(pulses, 1 / (2 * np.pi * voice.tilt_hz)) + breath)
    sung = moving_filter(source, _resonators(tract_hz, _BANDWIDTHS_HZ * voice.tract))
    sung = band(sung, 70) + 1.2 * band(sung, 1700)  # presence boost
    sung *= 0.25 / (np.sqrt(np.mean(sung**2)) + 1e-9)
    deep = 0.3 * voice.chest * loudness * np.sin(2 * np.pi * phase(frequency_hz))
    # The cascade has five resonances; unfiltered source replaces the higher ones.
    air = band(loudness * (0.05 * pulses * voice.tilt_hz / 2500.0 + 0.15 * breath), 4200, 13000)
    return np.asarray(sung + deep + air)
