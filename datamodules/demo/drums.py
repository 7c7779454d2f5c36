"""Synthesised drums of the demo corpus; :mod:`datamodules.demo.songs` composes what they play."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from datamodules.demo.synthesis import Note, Signal, band, instants, phase, place


@dataclass(frozen=True)
class Kit:
    """Timbre of a drum kit: tunings in Hz, decays in seconds, shares of noise in [0, 1].

    A drum machine plays one recording of each drum (``variants`` is 1), a drummer never the same
    stroke twice.
    """

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
    metal: float = 0.5
    width: float = 1.0
    variants: int = 4


# Lowest and highest value of each setting, in the order of Kit.
_FAMILIES = {
    "acoustic": ((42, 70), (0.07, 0.2), (0.2, 1.0), (160, 250), (0.07, 0.18), (0.5, 0.8),
                 (0, 0), (5500, 9000), (0.02, 0.06), (75, 120), (0.3, 0.8), (0.5, 1.6), (3, 6)),
    "machine": ((36, 52), (0.2, 0.6), (0.05, 0.4), (170, 230), (0.06, 0.14), (0.6, 0.95),
                (0, 1.2), (7000, 10000), (0.02, 0.05), (70, 130), (0.1, 0.6), (0, 0.8), (1, 1)),
    "club": ((44, 62), (0.1, 0.3), (0.4, 1.2), (180, 260), (0.06, 0.16), (0.7, 0.95),
             (0.3, 1.2), (7000, 10500), (0.02, 0.06), (80, 140), (0.2, 0.9), (0, 1.0), (1, 2)),
    "brushes": ((48, 75), (0.07, 0.13), (0.05, 0.3), (170, 240), (0.12, 0.22), (0.85, 0.97),
                (0, 0), (5000, 7500), (0.03, 0.08), (90, 130), (0.3, 0.7), (0.6, 1.6), (4, 6)),
}  # fmt: skip
FAMILIES = tuple(_FAMILIES)
"""Families of drum kits."""


def draw_kit(family: str, generator: np.random.Generator) -> Kit:
    """Draw the settings of a kit of one of :data:`FAMILIES`."""
    settings: dict[str, Any] = {
        field.name: generator.uniform(low, high)
        for field, (low, high) in zip(fields(Kit), _FAMILIES[family], strict=True)
    }
    return Kit(**settings | {"variants": round(settings["variants"])})


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


def _cymbal(
    seconds: float, low_hz: float, generator: np.random.Generator, metal: float = 0.5
) -> Signal:
    time = instants(seconds * 5)
    partials = _METAL_HZ * generator.uniform(0.99, 1.01, 6)
    ringing = np.sign(np.sin(2 * np.pi * time[:, None] * partials)).sum(axis=1)
    stroke = band(metal * ringing + generator.standard_normal(len(time)), low_hz)
    return stroke * np.exp(-time / seconds) * np.minimum(time / 0.001, 1.0)


def _tom(kit: Kit, tuning: float, generator: np.random.Generator) -> Signal:
    time = instants(0.8)
    fall = kit.tom_hz * tuning * (1.0 + 0.6 * np.exp(-time / 0.03))
    skin = band(generator.standard_normal(len(time)), 400, 3000) * np.exp(-time / 0.015)
    return np.asarray(np.sin(2 * np.pi * phase(fall)) * np.exp(-time / 0.17) + 0.3 * skin)


def _conga(kit: Kit, tuning: float, generator: np.random.Generator) -> Signal:
    time = instants(0.5)
    turn = 2 * np.pi * phase(2.2 * kit.tom_hz * tuning * (1.0 + 0.15 * np.exp(-time / 0.01)))
    skin = np.sin(turn) * np.exp(-time / 0.09) + 0.4 * np.sin(2.3 * turn) * np.exp(-time / 0.03)
    slap = band(generator.standard_normal(len(time)), 800, 5000) * np.exp(-time / 0.006)
    return np.asarray(skin + 0.4 * slap)


def _block(kit: Kit, generator: np.random.Generator) -> Signal:
    """Rim of a snare or a wood block: two short partials."""
    time = instants(0.2)
    turn = 2 * np.pi * time * 4.5 * kit.snare_hz
    knock = np.sin(turn) * np.exp(-time / 0.012) + 0.6 * np.sin(2.1 * turn) * np.exp(-time / 0.007)
    click = band(generator.standard_normal(len(time)), 2000, 8000) * np.exp(-time / 0.003)
    return np.asarray(knock + 0.4 * click)


def _shaker(generator: np.random.Generator) -> Signal:
    time = instants(0.16)
    shape = (time / 0.03) ** 2 * np.exp(-2.0 * time / 0.03)
    return np.asarray(band(generator.standard_normal(len(time)), 4500, 13000) * shape * 7.0)


def _stroke(sound: str, kit: Kit, velocity: float, generator: np.random.Generator) -> Signal:
    """One stroke at full level; the velocity changes how long a hi-hat rings."""
    toms = {"high": 1.65, "middle": 1.3, "low": 1.0}
    if sound == "kick":
        return _kick(kit, generator)
    if sound == "snare":
        return 1.1 * _snare(kit, generator)
    if sound in toms:
        return 0.8 * _tom(kit, toms[sound], generator)
    if sound == "crash":
        return 0.22 * _cymbal(0.55, 3200, generator, kit.metal)
    if sound == "ride":
        return 0.13 * _cymbal(0.16, 5200, generator, kit.metal)
    if sound in ("conga", "slap"):
        return 0.6 * _conga(kit, 1.0 if sound == "conga" else 1.35, generator)
    if sound == "block":
        return 0.4 * _block(kit, generator)
    if sound == "shaker":
        return 0.35 * _shaker(generator)
    ring = kit.hat_seconds * (6.0 if sound == "open" else 0.6 + 0.6 * velocity)
    return 0.24 * _cymbal(ring, kit.hat_hz, generator, kit.metal)


_PANS = {
    "snare": 0.1, "high": -0.35, "middle": 0.1, "low": 0.5, "crash": -0.5, "ride": -0.4,
    "hat": 0.4, "open": 0.4, "conga": -0.3, "slap": -0.2, "block": 0.3, "shaker": -0.5,
}  # fmt: skip


def play_drums(
    notes: Sequence[Note], kit: Kit, length: int, generator: np.random.Generator
) -> Signal:
    """Play a drum part.

    Args:
        notes: Strokes; ``sound`` is kick, snare, hat, open, ride, crash, conga, slap, block,
            shaker, or a tom: high, middle, low.
        kit: Timbre of the kit.
        length: Length of the result, samples.
        generator: Source of the noise.

    Returns:
        Stereo mix from the audience's perspective, shape (length, 2).
    """
    track = np.zeros((length, 2))
    strokes: dict[tuple[str, int], Signal] = {}
    for note in notes:
        key = note.sound, int(generator.integers(kit.variants))
        if key not in strokes:
            strokes[key] = _stroke(note.sound, kit, note.velocity, generator)
        pan = float(np.clip(kit.width * _PANS.get(note.sound, 0.0), -0.9, 0.9))
        place(track, note.velocity**1.5 * strokes[key], note.start_seconds, pan)
    return track
