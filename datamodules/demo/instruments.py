"""Synthesised basses, chord instruments and leads of the demo corpus.

:mod:`datamodules.demo.songs` composes what they play.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.demo.effects import tremolo
from datamodules.demo.synthesis import (
    CONTROL_HOP,
    SAMPLE_RATE,
    Note,
    Signal,
    band,
    follow,
    hertz,
    instants,
    lowpass,
    moving_filter,
    phase,
    place,
    samples,
    saw,
)


@dataclass(frozen=True)
class Timbre:
    """How an instrument differs from others of its kind.

    Args:
        brightness: Factor on cutoff frequencies.
        sustain: Factor on attack and decay times.
        detune: Factor on the detuning of unison oscillators.
    """

    brightness: float = 1.0
    sustain: float = 1.0
    detune: float = 1.0


# Lines of one voice: basses and leads

_STRINGS = {"fingers": (120.0, 1.0), "pick": (900.0, 1.0), "upright": (90.0, 0.35)}
BASSES = ("saw", "square", "sub", "acid", "fm", "fingers", "pick", "upright")
"""Timbres of basses: five synthesisers, then three plucked strings."""


def play_bass(
    notes: Sequence[Note],
    name: str,
    length: int,
    generator: np.random.Generator,
    timbre: Timbre = Timbre(),
) -> Signal:
    """Play a monophonic bass line.

    Args:
        notes: The line, sorted by time.
        name: One of :data:`BASSES`.
        length: Length of the result, samples.
        generator: Source of the noise of plucks.
        timbre: Settings of the instrument.

    Returns:
        The line, shape (length,).
    """
    if name in _STRINGS:
        edge_hz, sustain = _STRINGS[name]
        track = np.zeros((length, 2))
        for note in notes:
            edge = edge_hz * timbre.brightness
            string = _string(note, edge, generator, sustain * timbre.sustain)
            place(track, band(string, 30, 260) + 0.3 * string, note.start_seconds)
        return np.asarray(np.tanh(1.5 * track[:, 0]))
    frequency_hz, gate, age, velocity = _line(notes, length, 0.008)
    opening = 220.0 + 1500.0 * velocity**2 * np.exp(-age / (0.12 * timbre.sustain))
    resonance = 1.6
    if name == "sub":
        wave = np.sin(2 * np.pi * phase(frequency_hz))
        wave = np.tanh(1.8 * wave + 0.25 * wave**2)
    elif name == "fm":
        turn = 2 * np.pi * phase(frequency_hz)
        index = np.interp(np.arange(length), np.arange(len(age)) * CONTROL_HOP, np.exp(-age / 0.2))
        wave = np.sin(turn + (0.6 + 2.2 * index) * np.sin(turn))
        opening = opening + 1500.0
    elif name == "square":
        wave = saw(frequency_hz) - saw(frequency_hz, 0.45)
    else:
        wave = saw(frequency_hz) + 0.7 * saw((1.0 + 0.004 * timbre.detune) * frequency_hz, 0.3)
        if name == "acid":
            opening, resonance = 150.0 + 2600.0 * velocity**2 * np.exp(-age / 0.09), 6.0
    cutoff = follow(opening * timbre.brightness, 0.004, SAMPLE_RATE / CONTROL_HOP)
    deep = np.sin(2 * np.pi * phase(frequency_hz))
    return np.asarray((moving_filter(wave, lowpass(cutoff, resonance)) + 0.5 * deep) * gate)


def play_lead(
    notes: Sequence[Note], length: int, pan: float, timbre: Timbre, vibrato_hz: float
) -> Signal:
    """Play a solo on a synthesiser with portamento and vibrato, shape (length, 2).

    Other arguments are those of :func:`play_chords`.
    """
    frequency_hz, gate, age, velocity = _line(notes, length, 0.02)
    late = np.interp(np.arange(length), np.arange(len(age)) * CONTROL_HOP, np.clip(age - 0.2, 0, 1))
    swing = np.sin(2 * np.pi * vibrato_hz * np.arange(length) / SAMPLE_RATE)
    frequency_hz = frequency_hz * (1.0 + 0.02 * late * swing)
    wave = saw(frequency_hz) + saw(frequency_hz * (1.0 + 0.006 * timbre.detune), 0.25)
    opening = timbre.brightness * (900.0 + 3500.0 * velocity * np.exp(-age / 0.3))
    track = np.zeros((length, 2))
    place(track, moving_filter(wave, lowpass(opening, 1.5)) * gate, 0.0, pan)
    return track


def _line(
    notes: Sequence[Note], length: int, glide_seconds: float
) -> tuple[Signal, Signal, Signal, Signal]:
    """Frequency in Hz and level (T,); age and velocity of the last note per control frame."""
    frames = length // CONTROL_HOP + 1
    pitch, gate = np.full(length, float(notes[0].pitch)), np.zeros(length)
    age, velocity = np.full(frames, 9.0), np.full(frames, 0.5)
    for note in notes:
        start = samples(note.start_seconds)
        held = slice(start, samples(note.start_seconds + note.duration_seconds))
        pitch[start:] = note.pitch
        ages = np.arange(len(gate[held])) / SAMPLE_RATE
        gate[held] = note.velocity * (0.65 + 0.35 * np.exp(-ages / 0.15))
        frame = start // CONTROL_HOP
        age[frame:] = np.arange(frames - frame) * CONTROL_HOP / SAMPLE_RATE
        velocity[frame:] = note.velocity
    return hertz(follow(pitch, glide_seconds)), follow(gate, 0.006), age, velocity


# Chord instruments


def _string(
    note: Note, edge_hz: float, generator: np.random.Generator, sustain: float = 1.0
) -> Signal:
    """Plucked string (Karplus and Strong 1983), computed one period at a time.

    The delay line has an integer length, so its output is resampled to the exact pitch. The pluck's
    spectrum falls by 6 dB per octave above ``edge_hz``.
    """
    frequency_hz = float(hertz(note.pitch))
    period = max(int(SAMPLE_RATE / frequency_hz), 2)
    tuning = frequency_hz * (period + 0.5) / SAMPLE_RATE  # averaging delays by half a sample
    seconds = min(note.duration_seconds + 0.15, 3.0)
    periods = int(seconds * tuning * SAMPLE_RATE / period) + 2
    decay_seconds = (1.2 + 260.0 / frequency_hz) * sustain
    loss = 0.5 * 10.0 ** (-3.0 / (frequency_hz * decay_seconds))
    pluck = follow(generator.uniform(-1.0, 1.0, period), 1.0 / (2 * np.pi * edge_hz))
    pluck /= np.abs(pluck).max()
    pluck -= np.roll(pluck, period // 5)  # plucked at a fifth of the string
    loop = np.empty((periods, period))
    loop[0] = pluck
    last = 0.0
    for turn in range(1, periods):
        before = loop[turn - 1]
        loop[turn, 0] = loss * (before[0] + last)
        loop[turn, 1:] = loss * (before[1:] + before[:-1])
        last = float(before[-1])
    time = instants(seconds)
    wave = np.interp(time * SAMPLE_RATE * tuning, np.arange(loop.size), loop.ravel())
    damping = np.exp(-np.maximum(time - note.duration_seconds, 0.0) / 0.03)
    return np.asarray(note.velocity * wave * damping)


def _envelope(note: Note, attack_seconds: float, release_seconds: float) -> Signal:
    """Attack, sustain for the note's duration, and release, shape (T,)."""
    time = instants(note.duration_seconds + 4 * release_seconds)
    fall = np.exp(-np.maximum(time - note.duration_seconds, 0.0) / release_seconds)
    return np.asarray(note.velocity * (1.0 - np.exp(-time / attack_seconds)) * fall)


def _saws(note: Note, envelope: Signal, cents: Signal, generator: np.random.Generator) -> Signal:
    """Detuned sawtooth oscillators for each of two channels, shape (T, 2)."""
    sides = [
        sum(
            saw(np.full(len(envelope), float(hertz(note.pitch + cent / 100))), generator.random())
            for cent in side.tolist()
        )
        for side in cents
    ]
    return np.asarray(envelope[:, None] * np.stack(sides, axis=-1))


def _pad_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    cents = timbre.detune * np.array([[-9.0, 2.0], [-2.0, 9.0]])  # slow beating
    return _saws(note, _envelope(note, 0.12 * timbre.sustain, 0.25), cents, generator)


def _strings_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    """A section of bowed strings: more players than a pad has oscillators, and bow noise."""
    envelope = _envelope(note, 0.07 * timbre.sustain, 0.12)
    cents = timbre.detune * generator.normal(0.0, 8.0, (2, 3))
    bows = 0.05 * band(generator.standard_normal(len(envelope)), 2000, 7000)
    return _saws(note, envelope, cents, generator) + (envelope * bows)[:, None]


def _brass_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    """Sawtooth that gets brighter with its level, as the tone of a trumpet does."""
    envelope = _envelope(note, 0.03 * timbre.sustain, 0.06)
    frequency_hz = float(hertz(note.pitch))
    control = envelope[::CONTROL_HOP]
    cutoff = frequency_hz * (1.0 + 7.0 * timbre.brightness * control**1.5)
    wave = saw(np.full(len(envelope), frequency_hz), generator.random())
    return np.asarray(moving_filter(wave * envelope, lowpass(cutoff, 0.8)))


def _electric_piano_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.002, 0.08)
    time = np.arange(len(envelope)) / SAMPLE_RATE
    turn = 2 * np.pi * float(hertz(note.pitch)) * time
    bark = timbre.brightness * (2.2 * note.velocity**2 * np.exp(-time / 0.35) + 0.25)
    body = np.sin(turn + bark * np.sin(turn)) * np.exp(-time / (1.1 * timbre.sustain))
    tine = np.sin(turn + 0.8 * np.sin(14 * turn) * np.exp(-time / 0.06)) * np.exp(-time / 0.25)
    return np.asarray(envelope * (body + 0.4 * tine))


def _piano_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    """Stiff struck strings: partials are stretched, and the higher ones die away sooner."""
    envelope = _envelope(note, 0.0015, 0.07)
    time = np.arange(len(envelope)) / SAMPLE_RATE
    lowest_hz = float(hertz(note.pitch))
    tone = np.zeros(len(time))
    for partial in range(1, min(16, int(9000 / lowest_hz)) + 1):
        frequency_hz = lowest_hz * partial * np.sqrt(1.0 + 4e-4 * partial**2)
        level = partial ** (-1.5 / timbre.brightness) * abs(np.sin(np.pi * partial / 7.3))
        decay = 3.0 * timbre.sustain * (220.0 / lowest_hz) ** 0.5 / partial**0.7
        turn = 2 * np.pi * (frequency_hz * time + generator.random())
        tone += level * np.sin(turn) * np.exp(-time / decay)
    hammer = band(generator.standard_normal(len(time)), 200, 2500) * np.exp(-time / 0.008)
    return np.asarray(envelope * (tone + 0.15 * hammer))


def _bells_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    """A struck bar: partials of a vibraphone, 1 : 4 : 9.9."""
    envelope = _envelope(note, 0.001, 0.3)
    time = np.arange(len(envelope)) / SAMPLE_RATE
    turn = 2 * np.pi * float(hertz(note.pitch)) * time
    partials = {1.0: (1.0, 0.9), 4.0: (0.4 * timbre.brightness, 0.25), 9.9: (0.2, 0.06)}
    tone = sum(
        level * np.sin(ratio * turn) * np.exp(-time / (decay * timbre.sustain))
        for ratio, (level, decay) in partials.items()
    )
    return np.asarray(envelope * tone)


def _organ_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.008, 0.03)
    turn = 2 * np.pi * float(hertz(note.pitch)) * np.arange(len(envelope)) / SAMPLE_RATE
    drawbars = {0.5: 0.6, 1.0: 1.0, 1.5: 0.5, 2.0: 0.7, 3.0: 0.4, 4.0: 0.35, 6.0: 0.2, 8.0: 0.2}
    tone = sum(
        level * (timbre.brightness if ratio > 2.0 else 1.0) * np.sin(turn * ratio)
        for ratio, level in drawbars.items()
    )
    return np.asarray(envelope * tone)


def _synth_note(note: Note, timbre: Timbre, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.002, 0.05)
    frequency_hz = np.full(len(envelope), float(hertz(note.pitch)))
    age = np.arange(len(envelope)) / SAMPLE_RATE
    pulse = saw(frequency_hz) - saw(frequency_hz, 0.3)
    control_age = np.arange(len(envelope) // CONTROL_HOP + 1) * CONTROL_HOP / SAMPLE_RATE
    closing = 4500.0 * note.velocity * np.exp(-control_age / (0.09 * timbre.sustain))
    filtered = moving_filter(pulse, lowpass(timbre.brightness * (500.0 + closing), 2.0))
    return np.asarray(filtered * envelope * np.exp(-age / (0.4 * timbre.sustain)))


_NOTES = {
    "pad": _pad_note,
    "strings": _strings_note,
    "brass": _brass_note,
    "electric piano": _electric_piano_note,
    "piano": _piano_note,
    "bells": _bells_note,
    "organ": _organ_note,
    "synth": _synth_note,
}
_PLUCK_HZ = {"guitar": 900.0, "acoustic guitar": 2600.0, "overdriven guitar": 600.0}
CHORD_INSTRUMENTS = (*_NOTES, *_PLUCK_HZ)
"""Instruments of :func:`play_chords`."""


def play_chords(
    notes: Sequence[Note],
    instrument: str,
    length: int,
    pan: float,
    generator: np.random.Generator,
    timbre: Timbre = Timbre(),
) -> Signal:
    """Play chords.

    Args:
        notes: The part, in any order; notes may overlap.
        instrument: One of :data:`CHORD_INSTRUMENTS`.
        length: Length of the result, samples.
        pan: Position, from -1, left, to 1, right.
        generator: Source of phases and of the noise of plucks.
        timbre: Settings of the instrument.

    Returns:
        The part, shape (length, 2).
    """
    track = np.zeros((length, 2))
    for note in notes:
        if instrument in _NOTES:
            sound = _NOTES[instrument](note, timbre, generator)
        else:
            edge_hz = _PLUCK_HZ[instrument] * timbre.brightness
            sound = _string(note, edge_hz, generator, timbre.sustain)
        if sound.ndim == 2:
            sound = sound * (1.0 - max(pan, 0.0), 1.0 + min(pan, 0.0))
        place(track, sound, note.start_seconds, pan)
    if instrument in ("pad", "strings"):
        control_time = np.arange(length // CONTROL_HOP + 1) * CONTROL_HOP / SAMPLE_RATE
        sweep = 2.0 ** (1.1 * np.sin(2 * np.pi * 0.09 * control_time + 7 * pan))
        cutoff = timbre.brightness * (1400.0 * sweep if instrument == "pad" else 3500.0 + 0 * sweep)
        return moving_filter(track, lowpass(cutoff, 0.9))
    if instrument in ("organ", "electric piano"):  # rotary speaker and tremolo
        rate_hz, depth = (6.3, 0.25) if instrument == "organ" else (4.1, 0.2)
        return tremolo(track, rate_hz, depth, opposite=True)
    if instrument == "overdriven guitar":  # valve amplifier and loudspeaker
        return band(band(np.tanh(6.0 * track), 90), 0, 4200)
    return band(track, 90)
