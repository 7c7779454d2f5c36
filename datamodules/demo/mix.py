"""Mixing of a song of the demo corpus: effects, levels and mastering of its four stems.

All that depends on the song is drawn from its generator, so songs differ in loudness, balance and
space as much as in their notes.
"""

import numpy as np
import numpy.typing as npt

from datamodules.demo.drums import play_drums
from datamodules.demo.effects import (
    active_rms,
    chorus,
    compress,
    drive,
    duck,
    echo,
    limiting_gain,
    reverberate,
    room,
    shelf,
    tremolo,
)
from datamodules.demo.instruments import play_bass, play_chords, play_lead
from datamodules.demo.songs import (
    Plan,
    compose_bass,
    compose_chords,
    compose_drums,
    compose_melody,
    compose_solo,
)
from datamodules.demo.styles import LEAD, choice, draw_song
from datamodules.demo.synthesis import SAMPLE_RATE, Note, Signal, band, place, samples
from datamodules.demo.voice import sing

_LEVEL_DB = {"vocals": 1.5, "drums": 1.5, "bass": -2.0, "other": -1.0}
_LEVEL_DEVIATION_DB, _LARGEST_DEVIATION_DB = 5.0, 10.0
_PEAK = 0.95 * 32767


def render_track(seed: int, number: int) -> dict[str, npt.NDArray[np.int16]]:
    """Compose, synthesise, mix and master a song.

    Args:
        seed: Seed of the corpus.
        number: Number of the song in the corpus.

    Returns:
        Stems in the order of :data:`STEMS`, int16, shape (T, 2), 44 100 Hz. Their sum fits in 16
        bits.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
    plan = Plan(draw_song(generator), generator)
    length = samples(plan.song.length_seconds)
    hall = room(10.0 ** generator.uniform(-0.4, 0.5), generator, generator.uniform(3000, 9000))
    strokes = compose_drums(plan)
    kicks = [note.start_seconds for note in strokes if note.sound == "kick"]
    stems = {
        "vocals": _mix_vocals(plan, hall, length),
        "drums": _mix_drums(plan, strokes, hall, length),
        "bass": _mix_bass(plan, kicks, length),
        "other": _mix_other(plan, hall, kicks, length),
    }
    for stem, sound in stems.items():
        stems[stem] = _balanced(sound, _LEVEL_DB[stem], generator)
    return _mastered(stems, generator)


def _mix_vocals(plan: Plan, hall: Signal, length: int) -> Signal:
    """Lead, doubles and a second voice, with compressor, echo and hall."""
    generator, song = plan.generator, plan.song
    lead, second = compose_melody(plan)
    track = np.zeros((length, 2))
    place(track, sing(lead, song.voice, length, generator), 0.0)
    doubled = generator.random()
    if doubled < 0.45:  # sung twice again, or once
        for pan in (-0.7, 0.7) if doubled < 0.25 else (0.0,):
            again = [_loosened(note, generator) for note in lead]
            level = generator.uniform(0.2, 0.6)
            place(track, level * sing(again, song.voice, length, generator), 0.0, pan)
    if second and generator.random() < 0.6:
        voice = sing(second, song.voice, length, generator)
        pan = generator.uniform(0.0, 0.8)
        level = generator.uniform(0.2, 0.45)
        place(track, level * voice, 0.0, -pan)
        place(track, level * voice, 0.017, pan)
    track = compress(track, generator.uniform(1.5, 5.0))
    if generator.random() < 0.3:
        track = drive(track, generator.uniform(1.0, 4.0))
    track = shelf(track, generator.uniform(2500, 6000), generator.normal(0.0, 3.0))
    track = band(track, generator.uniform(50, 130))
    if generator.random() < 0.3:
        track = chorus(track, generator.uniform(0.002, 0.006), generator.uniform(0.2, 1.5), 0.4)
    if generator.random() < 0.45:
        late_seconds = 60.0 / song.tempo_bpm * choice((0.25, 0.5, 0.75), generator)
        track = echo(track, late_seconds, generator.uniform(0.1, 0.4))
    return reverberate(track, hall, generator.uniform(-24.0, -7.0))


def _loosened(note: Note, generator: np.random.Generator) -> Note:
    """The note as another take has it: shifted in time, and a few cents out of tune."""
    start = max(note.start_seconds + 0.018 * generator.standard_normal(), 0.0)
    pitch = note.pitch + 0.06 * generator.standard_normal()
    return Note(start, note.duration_seconds, pitch, note.velocity, note.sound)


def _mix_drums(plan: Plan, strokes: list[Note], hall: Signal, length: int) -> Signal:
    """Drums in a room of their own, saturated and compressed."""
    generator = plan.generator
    track = play_drums(strokes, plan.song.kit, length, generator)
    booth = room(generator.uniform(0.15, 0.9), generator, 9000.0, 0.004)
    wet_db = generator.uniform(-22.0, -4.0)
    track = reverberate(track, booth, wet_db)
    if generator.random() < 0.2:
        track = reverberate(track, hall, generator.uniform(-22.0, -12.0))
    if generator.random() < 0.5:
        track = drive(track, generator.uniform(0.8, 3.5))
    if generator.random() < 0.4:
        track = compress(track, generator.uniform(1.5, 3.0))
    return shelf(track, generator.uniform(2500, 8000), generator.normal(0.0, 3.0))


def _mix_bass(plan: Plan, kicks: list[float], length: int) -> Signal:
    """One or two sounds that play the same line; some are driven, widened or ducked."""
    generator = plan.generator
    notes = compose_bass(plan)
    line = np.zeros(length)
    for name, timbre in plan.song.basses:
        sound = play_bass(notes, name, length, generator, timbre)
        line += generator.uniform(0.4, 1.0) * sound / (np.sqrt(np.mean(sound**2)) + 1e-9)
    track = np.stack([line, line], axis=-1)
    if generator.random() < 0.3:
        track = drive(track, generator.uniform(1.5, 6.0))
    track = compress(track, generator.uniform(1.0, 4.0))
    track = shelf(track, generator.uniform(250, 900), generator.normal(-1.0, 4.0))
    track += generator.uniform(0.0, 1.5) * band(track, 0.0, 90.0)
    if generator.random() < 0.25:
        track = chorus(track, generator.uniform(0.001, 0.004), generator.uniform(0.2, 1.0), 0.5)
    if generator.random() < 0.25:
        track = duck(track, kicks, generator.uniform(0.3, 0.9))
    return band(track, 25.0)


def _mix_other(plan: Plan, hall: Signal, kicks: list[float], length: int) -> Signal:
    """Instruments at different places, each with its own effects."""
    generator, song = plan.generator, plan.song
    track = np.zeros((length, 2))
    side = choice((-1.0, 1.0), generator)
    for number, part in enumerate(song.other):
        notes = compose_solo(plan) if part.comping == "solo" else compose_chords(plan, number)
        if not notes:
            continue
        pan = side * (-1.0) ** number * generator.uniform(0.0, 0.85 if number else 0.4)
        if part.instrument == LEAD:
            sound = play_lead(notes, length, 0.3 * pan, part.timbre, generator.uniform(4.5, 6.5))
        else:
            sound = play_chords(notes, part.instrument, length, pan, generator, part.timbre)
        sound = _with_effects(sound, 60.0 / song.tempo_bpm, generator)
        level_db = generator.normal(0.0 if number == 0 or part.comping == "solo" else -3.0, 2.5)
        track += 10.0 ** (level_db / 20.0) * sound / (active_rms(sound) + 1e-9)
    if generator.random() < 0.2:
        track = duck(track, kicks, generator.uniform(0.3, 0.9))
    return reverberate(track, hall, generator.uniform(-24.0, -8.0))


def _with_effects(sound: Signal, beat_seconds: float, generator: np.random.Generator) -> Signal:
    """Add up to five effects in the order of a pedal board."""
    chances = generator.random(5)
    if chances[0] < 0.2:
        sound = drive(sound, generator.uniform(1.0, 6.0))
    if chances[1] < 0.35:
        depth_seconds, rate_hz = generator.uniform(0.001, 0.006), generator.uniform(0.1, 1.5)
        sound = chorus(sound, depth_seconds, rate_hz, generator.uniform(0.3, 0.9))
    if chances[2] < 0.15:
        rate_hz = choice((0.5, 1.0, 2.0, 4.0), generator) / beat_seconds
        sound = tremolo(
            sound, rate_hz, generator.uniform(0.2, 0.8), choice((True, False), generator)
        )
    if chances[3] < 0.25:
        seconds = beat_seconds * choice((0.5, 0.75), generator)
        sound = echo(sound, seconds, generator.uniform(0.15, 0.6))
    if chances[4] < 0.4:
        sound = band(sound, generator.uniform(80.0, 300.0))
    return shelf(sound, generator.uniform(1500, 5000), generator.normal(0.0, 3.5))


def _balanced(sound: Signal, level_db: float, generator: np.random.Generator) -> Signal:
    """The stem at its level in the mix, which is drawn, and which changes slowly."""
    deviation_db = np.clip(
        generator.normal(0.0, _LEVEL_DEVIATION_DB), -_LARGEST_DEVIATION_DB, _LARGEST_DEVIATION_DB
    )
    riding_db = np.repeat(generator.normal(0.0, 1.2, len(sound) // samples(4.0) + 2), 2)[1:]
    places = np.arange(len(riding_db)) * samples(2.0)
    gain_db = level_db + deviation_db + np.interp(np.arange(len(sound)), places, riding_db)
    gain = 10.0 ** (gain_db / 20.0) / (active_rms(sound) + 1e-9)
    return np.asarray(sound * gain[:, None])


def _mastered(
    stems: dict[str, Signal], generator: np.random.Generator
) -> dict[str, npt.NDArray[np.int16]]:
    """Equalise all stems alike, set the loudness of their sum, limit its peaks, fade it out."""
    edge_hz, tilt_db = generator.uniform(1500, 5000), generator.normal(0.0, 2.0)
    stems = {stem: shelf(sound, edge_hz, tilt_db) for stem, sound in stems.items()}
    mixture = sum(stems.values(), np.zeros(1))
    loudness = 32768 * 10.0 ** (generator.uniform(-24.0, -12.0) / 20.0)
    gain = loudness / active_rms(mixture)
    fade_seconds = generator.uniform(3.0, 6.0) if generator.random() < 0.25 else 0.6
    remaining = (len(mixture) - np.arange(len(mixture))) / SAMPLE_RATE
    fade = np.clip(remaining / fade_seconds, 0.0, 1.0)[:, None]
    peaks = np.max([np.abs(each).max(axis=1) for each in (mixture, *stems.values())], axis=0)
    gain = gain * limiting_gain(gain * peaks, _PEAK) * fade
    return {stem: np.rint(gain * sound).astype(np.int16) for stem, sound in stems.items()}
