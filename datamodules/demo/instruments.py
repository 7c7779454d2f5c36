"""Synthesised instruments of the demo corpus: drums, basses and chord instruments.

:mod:`datamodules.demo.songs` composes what they play.
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
    lowpass,
    moving_filter,
    phase,
    place,
    samples,
    saw,
)

# Drums


@dataclass(frozen=True)
class Kit:
    """Timbre of a drum kit: tunings in Hz, decays in seconds, shares of noise in [0, 1]."""

    kick_hz: float = 52.0
    kick_seconds: float = 0.14
    kick_click: float = 0.5
    snare_hz: float = 185.0
    snare_seconds: float = 0.11
    snare_noise: float = 0.7
    clap: float = 0.0
    hat_hz: float = 7000.0
    hat_seconds: float = 0.035
    tom_hz: float = 95.0


_METAL_HZ = np.array([263.0, 391.0, 421.0, 587.0, 743.0, 919.0])  # inharmonic partials


def _kick(kit: Kit, generator: np.random.Generator) -> Signal:
    time = instants(kit.kick_seconds * 5)
    sweep = 3.5 * np.exp(-time / 0.009) + 0.8 * np.exp(-time / 0.045)
    skin = np.sin(2 * np.pi * phase(kit.kick_hz * (1.0 + sweep)))
    body = skin * np.exp(-time / kit.kick_seconds)
    click = band(generator.standard_normal(len(time)), 1500, 6000) * np.exp(-time / 0.004)
    return np.asarray(np.tanh(1.6 * body + kit.kick_click * click))


def _snare(kit: Kit, generator: np.random.Generator) -> Signal:
    time = instants(kit.snare_seconds * 5)
    bend = 1.0 + 0.25 * np.exp(-time / 0.012)
    tone = 1.5 * np.sin(2 * np.pi * phase(kit.snare_hz * bend)) * np.exp(-time / 0.08)
    tone += 0.6 * np.sin(2 * np.pi * phase(1.72 * kit.snare_hz * bend)) * np.exp(-time / 0.045)
    hiss = generator.standard_normal(len(time))
    rattle = (band(hiss, 900, 9500) + 0.5 * band(hiss, 3500)) * np.exp(-time / kit.snare_seconds)
    if kit.clap:  # three claps, slightly apart
        hands = sum(np.exp(-np.abs(time - late) / 0.004) for late in (0.004, 0.014, 0.025))
        rattle += kit.clap * 2.0 * band(hiss, 900, 2600) * (hands + 0.7 * np.exp(-time / 0.08))
    return np.asarray((1.0 - kit.snare_noise) * tone + kit.snare_noise * rattle)


def _cymbal(seconds: float, low_hz: float, generator: np.random.Generator) -> Signal:
    time = instants(seconds * 5)
    partials = _METAL_HZ * generator.uniform(0.99, 1.01, 6)
    metal = np.sign(np.sin(2 * np.pi * time[:, None] * partials)).sum(axis=1)
    stroke = band(0.5 * metal + generator.standard_normal(len(time)), low_hz)
    return stroke * np.exp(-time / seconds) * np.minimum(time / 0.001, 1.0)


def _tom(kit: Kit, tuning: float, generator: np.random.Generator) -> Signal:
    time = instants(0.8)
    fall = kit.tom_hz * tuning * (1.0 + 0.6 * np.exp(-time / 0.03))
    skin = band(generator.standard_normal(len(time)), 400, 3000) * np.exp(-time / 0.015)
    return np.asarray(np.sin(2 * np.pi * phase(fall)) * np.exp(-time / 0.17) + 0.3 * skin)


def play_drums(
    notes: Sequence[Note], kit: Kit, length: int, generator: np.random.Generator
) -> Signal:
    """Play a drum part; each stroke is synthesised with new noise.

    Args:
        notes: Strokes; ``sound`` is kick, snare, hat, open, ride, crash, or a tom: high, middle,
            low.
        kit: Timbre of the kit.
        length: Length of the result, samples.
        generator: Source of the noise.

    Returns:
        Stereo mix from the audience's perspective, shape (length, 2).
    """
    track = np.zeros((length, 2))
    toms = {"high": (1.65, -0.35), "middle": (1.3, 0.1), "low": (1.0, 0.5)}
    for note in notes:
        pan = 0.0
        if note.sound == "kick":
            sound = _kick(kit, generator)
        elif note.sound == "snare":
            sound, pan = 1.1 * _snare(kit, generator), 0.1
        elif note.sound in toms:
            tuning, pan = toms[note.sound]
            sound = 0.8 * _tom(kit, tuning, generator)
        elif note.sound == "crash":
            sound, pan = 0.22 * _cymbal(0.55, 3200, generator), -0.5
        elif note.sound == "ride":
            sound, pan = 0.13 * _cymbal(0.16, 5200, generator), -0.4
        else:
            ring = kit.hat_seconds * (6.0 if note.sound == "open" else 0.6 + 0.6 * note.velocity)
            sound, pan = 0.24 * _cymbal(ring, kit.hat_hz, generator), 0.4
        place(track, note.velocity**1.5 * sound, note.start_seconds, pan)
    return track


# Bass


def play_bass(
    notes: Sequence[Note], timbre: str, length: int, generator: np.random.Generator
) -> Signal:
    """Play a monophonic bass line.

    Args:
        notes: The line, sorted by time.
        timbre: ``saw``, ``square`` or ``sub`` (synthesisers), or ``fingers`` (a plucked string).
        length: Length of the result, samples.
        generator: Source of the noise of plucks.

    Returns:
        The line, shape (length,).
    """
    if timbre == "fingers":
        track = np.zeros((length, 2))
        for note in notes:
            string = _string(note, 120.0, generator)
            place(track, band(string, 30, 260) + 0.3 * string, note.start_seconds)
        return np.asarray(np.tanh(1.5 * track[:, 0]))
    frames = length // CONTROL_HOP + 1
    pitch, gate = np.full(length, float(notes[0].pitch)), np.zeros(length)
    cutoff = np.full(frames, 80.0)
    for note in notes:
        released = samples(note.start_seconds + note.duration_seconds)
        held = slice(samples(note.start_seconds), released)
        pitch[held.start :] = note.pitch
        age = np.arange(len(gate[held])) / SAMPLE_RATE
        gate[held] = note.velocity * (0.65 + 0.35 * np.exp(-age / 0.15))
        opening = np.arange(frames - held.start // CONTROL_HOP) * CONTROL_HOP / SAMPLE_RATE
        sweep = 220.0 + 1500.0 * note.velocity**2 * np.exp(-opening / 0.12)
        cutoff[held.start // CONTROL_HOP :] = sweep
    frequency_hz = hertz(follow(pitch, 0.008))
    if timbre == "sub":
        wave = np.sin(2 * np.pi * phase(frequency_hz))
        wave = np.tanh(1.8 * wave + 0.25 * wave**2)
    elif timbre == "square":
        wave = saw(frequency_hz) - saw(frequency_hz, 0.45)
    else:
        wave = saw(frequency_hz) + 0.7 * saw(1.004 * frequency_hz, 0.3)
    filtered = moving_filter(wave, lowpass(follow(cutoff, 0.004, SAMPLE_RATE / CONTROL_HOP), 1.6))
    deep = np.sin(2 * np.pi * phase(frequency_hz))
    return np.asarray((filtered + 0.5 * deep) * follow(gate, 0.006))


# Chord instruments


def _string(note: Note, edge_hz: float, generator: np.random.Generator) -> Signal:
    """Plucked string (Karplus and Strong 1983), computed one period at a time.

    The delay line has an integer length, so its output is resampled to the exact pitch. The pluck's
    spectrum falls by 6 dB per octave above ``edge_hz``.
    """
    frequency_hz = float(hertz(note.pitch))
    period = max(int(SAMPLE_RATE / frequency_hz), 2)
    tuning = frequency_hz * (period + 0.5) / SAMPLE_RATE  # averaging delays by half a sample
    seconds = min(note.duration_seconds + 0.15, 3.0)
    periods = int(seconds * tuning * SAMPLE_RATE / period) + 2
    loss = 0.5 * 10.0 ** (-3.0 / (frequency_hz * (1.2 + 260.0 / frequency_hz)))
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


def _pad_note(note: Note, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.12, 0.25)[:, None]
    cents = np.array([[-9.0, 2.0], [-2.0, 9.0]])  # (saw, channel): slow beating
    sides = [
        sum(
            saw(np.full(len(envelope), float(hertz(note.pitch + cent / 100))), generator.random())
            for cent in cents[:, side]
        )
        for side in (0, 1)
    ]
    return np.asarray(envelope * np.stack(sides, axis=-1))


def _electric_piano_note(note: Note, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.002, 0.08)
    time = np.arange(len(envelope)) / SAMPLE_RATE
    turn = 2 * np.pi * float(hertz(note.pitch)) * time
    bark = 2.2 * note.velocity**2 * np.exp(-time / 0.35) + 0.25
    body = np.sin(turn + bark * np.sin(turn)) * np.exp(-time / 1.1)
    tine = np.sin(turn + 0.8 * np.sin(14 * turn) * np.exp(-time / 0.06)) * np.exp(-time / 0.25)
    return np.asarray(envelope * (body + 0.4 * tine))


def _organ_note(note: Note, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.008, 0.03)
    turn = 2 * np.pi * float(hertz(note.pitch)) * np.arange(len(envelope)) / SAMPLE_RATE
    drawbars = {0.5: 0.6, 1.0: 1.0, 1.5: 0.5, 2.0: 0.7, 3.0: 0.4, 4.0: 0.35, 6.0: 0.2, 8.0: 0.2}
    tone = sum(level * np.sin(turn * ratio) for ratio, level in drawbars.items())
    return np.asarray(envelope * tone)


def _synth_note(note: Note, generator: np.random.Generator) -> Signal:
    envelope = _envelope(note, 0.002, 0.05)
    frequency_hz = np.full(len(envelope), float(hertz(note.pitch)))
    age = np.arange(len(envelope)) / SAMPLE_RATE
    pulse = saw(frequency_hz) - saw(frequency_hz, 0.3)
    control_age = np.arange(len(envelope) // CONTROL_HOP + 1) * CONTROL_HOP / SAMPLE_RATE
    closing = 500.0 + 4500.0 * note.velocity * np.exp(-control_age / 0.09)
    return np.asarray(moving_filter(pulse, lowpass(closing, 2.0)) * envelope * np.exp(-age / 0.4))


def play_chords(
    notes: Sequence[Note], instrument: str, length: int, pan: float, generator: np.random.Generator
) -> Signal:
    """Play chords.

    Args:
        notes: The part, in any order; notes may overlap.
        instrument: pad, electric piano, organ, synth, guitar or overdriven guitar.
        length: Length of the result, samples.
        pan: Position, from -1, left, to 1, right.
        generator: Source of phases and of the noise of plucks.

    Returns:
        The part, shape (length, 2).
    """
    voices = {
        "pad": _pad_note,
        "electric piano": _electric_piano_note,
        "organ": _organ_note,
        "synth": _synth_note,
    }
    track = np.zeros((length, 2))
    for note in notes:
        if instrument in voices:
            sound = voices[instrument](note, generator)
        else:
            sound = _string(note, 900.0 if instrument == "guitar" else 600.0, generator)
        place(track, sound, note.start_seconds, pan)
    time = np.arange(length) / SAMPLE_RATE
    if instrument == "pad":
        control_time = np.arange(length // CONTROL_HOP + 1) * CONTROL_HOP / SAMPLE_RATE
        sweep = 1400.0 * 2.0 ** (1.1 * np.sin(2 * np.pi * 0.09 * control_time + 7 * pan))
        return moving_filter(track, lowpass(sweep, 0.9))
    if instrument == "organ" or instrument == "electric piano":  # rotary speaker and tremolo
        rate_hz, depth = (6.3, 0.25) if instrument == "organ" else (4.1, 0.2)
        wobble = depth * np.sin(2 * np.pi * rate_hz * time)[:, None]
        return np.asarray(track * (1.0 + wobble * np.array([1.0, -1.0])))
    if instrument == "overdriven guitar":  # valve amplifier and loudspeaker
        return band(band(np.tanh(6.0 * track), 90), 0, 4200)
    return band(track, 90)
