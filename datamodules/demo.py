"""The embedded corpus: 18 short songs in MUSDB18's layout, rendered where no MUSDB18 is at hand.

The songs are composed and played by this file and :mod:`datamodules.demo_instruments`, anew for
each seed; nothing is downloaded and nobody's recording is in them. Fifteen are for training, three
of these for validation (:data:`VALIDATION_TRACKS`), and three for testing. They are kept in the
user's cache and checked by hash at each use.

    python -m datamodules.demo [ROOT] [--seed N]    # prints the folder
"""

import argparse
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import oaconvolve
from tqdm import tqdm

from datamodules.demo_instruments import (
    CONSONANTS,
    SAMPLE_RATE,
    VOWELS,
    Kit,
    Note,
    Signal,
    Voice,
    band,
    place,
    play_bass,
    play_chords,
    play_drums,
    samples,
    sing,
)

STEMS = ("vocals", "drums", "bass", "other")
VERSION = 1
"""Of the renderer: raise it with any change of what is heard, so that caches are rendered again."""

logger = logging.getLogger(__name__)

# The songs


@dataclass(frozen=True)
class Song:
    """What is settled about a song before a note is written; the seed decides the rest.

    Args:
        name: Artist and title.
        tempo_bpm: Quarter notes a minute.
        bars: Length without the final chord.
        tonic: Pitch of the lowest tonic a bass plays, as MIDI number.
        mode: Key of ``_MODES``.
        progression: Degrees of the scale, 0 the tonic, one chord a bar, repeated.
        groove: Key of ``_GROOVES``.
        swing: Lateness of every second sixteenth, as a share of a sixteenth.
        kit: Key of ``_KITS``.
        bass: Keys of ``_BASS_LINES`` and timbre.
        other: Instruments and keys of ``_COMPING``; those after the first wait for the verse.
        voice: Key of ``_VOICES``.
        room_seconds: Reverberation time.
    """

    name: str
    tempo_bpm: float
    bars: int
    tonic: int
    mode: str
    progression: tuple[int, ...]
    groove: str
    swing: float
    kit: str
    bass: tuple[str, str]
    other: tuple[tuple[str, str], ...]
    voice: str
    room_seconds: float


_MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "harmonic": (0, 2, 3, 5, 7, 8, 11),
}
# Sixteenths of a bar. X is an accent, x a stroke, o a ghost note.
_GROOVES = {
    "rock": {"kick": "X.......X.x.....", "snare": "....X..o....X...", "hat": "X.x.X.x.X.x.X.x."},
    "floor": {"kick": "X...X...X...X...", "snare": "....x.......x...", "hat": "xo.oxo.oxo.oxo.o",
              "open": "..x...x...x...x."},
    "funk": {"kick": "X..x..x...x..x..", "snare": "....X..o.o..X..o", "hat": "XoxoXoxoXoxoXo.o",
             "open": "..............x."},
    "half": {"kick": "X.....x....x....", "snare": "........X.......", "hat": "x.xox.xxx.xox.oo"},
    "hop": {"kick": "X.x....o..X.....", "snare": "....X.......X..o", "hat": "x.x.x.xox.x.x.x."},
    "soul": {"kick": "X.....x.X.x.....", "snare": "x...X...x...X..o", "hat": "x.x.x.x.x.x.x.x."},
    "bossa": {"kick": "X..xX..xX..xX..x", "snare": "x..x..x...x..x..", "ride": "x.o.x.o.x.o.x.o."},
    "train": {"kick": "X...x...X...x...", "snare": "ooXoooXoooXoooXx", "ride": "x.......x......."},
    "break": {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "ride": "X.x.X.x.X.x.X.x."},
    "waltz": {"kick": "X.........o.", "snare": "....x...x...", "ride": "x...x.o.x.o."},
    "lilt": {"kick": "X.........x.", "snare": "......X...o.", "hat": "X.x.x.X.x.xo"},
}  # fmt: skip
# 1, 3, 5 and 8 are tones of the chord, a leads to the next root, - holds, . rests.
_BASS_LINES = {
    "eighths": "1-1-1-1-1-1-1-a-",
    "roots": "1-----1-1---5-a-",
    "octaves": "1-8-1-8-1-8-1-a-",
    "walking": "1---3---5---a---",
    "funky": "1..1..8.1.5..1a-",
    "pushed": "1--1--1---5-3-a-",
    "long": "1-----------5---",
    "dub": "1---..3-5---..a-",
    "offbeat": "..11..11..11..1a",
    "three": "1-------5-a-",
    "six": "1---1-5---a-",
}
# x is the whole chord, a digit one of its tones.
_COMPING = {
    "held": "x---------------",
    "halves": "x-------x-------",
    "offbeats": "..x-..x-..x-..x-",
    "stabs": "x..x..x...x.x...",
    "pushed": "x-----x---x-----",
    "strummed": "x---x-x-x-x-x-x-",
    "chugging": "x-x-x-x-x-x-x-x-",
    "picked": "0-2-1-3-2-1-3-2-",
    "rippling": "0123210301232103",
    "pulsing": "0.10.10.20.20.1.",
}
_KITS = {
    "studio": Kit(),
    "deep": Kit(46, 0.19, 0.3, 165, 0.15, 0.65, 0.0, 6500, 0.05, 82),
    "tight": Kit(60, 0.09, 0.8, 220, 0.07, 0.6, 0.0, 8000, 0.025, 110),
    "machine": Kit(44, 0.30, 0.2, 190, 0.08, 0.8, 0.8, 8500, 0.03, 90),
    "club": Kit(50, 0.16, 0.9, 200, 0.09, 0.85, 1.0, 9000, 0.03, 100),
    "brushes": Kit(58, 0.11, 0.15, 200, 0.17, 0.9, 0.0, 6000, 0.06, 105),
}
_VOICES = {
    "soprano": Voice(1.19, 62, 5.9, 50, 0.03, 2200),
    "alto": Voice(1.13, 56, 5.4, 40, 0.05, 2400),
    "tenor": Voice(1.03, 51, 5.6, 45, 0.025, 3000),
    "baritone": Voice(0.98, 45, 5.1, 35, 0.03, 2600),
    "whisperer": Voice(1.15, 57, 5.0, 22, 0.16, 1500),
    "shouter": Voice(1.05, 54, 6.0, 30, 0.02, 4500),
}
_TRAIN = (
    Song("Paper Lanterns - Northbound Tram", 104, 10, 33, "major", (0, 4, 5, 3), "rock", 0.0,
         "studio", ("eighths", "saw"), (("overdriven guitar", "chugging"), ("organ", "held")),
         "tenor", 1.1),
    Song("Ida Quist - Salt on the Window", 80, 8, 36, "minor", (0, 5, 2, 6), "half", 0.0,
         "deep", ("long", "sub"), (("electric piano", "pushed"), ("pad", "held")),
         "soprano", 2.2),
    Song("The Broken Metronomes - Overtime", 112, 10, 28, "dorian", (0, 3), "funk", 0.12,
         "tight", ("funky", "fingers"), (("electric piano", "stabs"), ("guitar", "offbeats")),
         "alto", 0.7),
    Song("Kestrel Avenue - Glass Parade", 126, 12, 31, "minor", (0, 5, 3, 4), "floor", 0.0,
         "club", ("offbeat", "saw"), (("pad", "held"), ("synth", "rippling")),
         "whisperer", 1.6),
    Song("Moss and Marrow - Low Tide", 96, 12, 38, "mixolydian", (0, 6, 3, 0), "lilt", 0.0,
         "brushes", ("six", "fingers"), (("guitar", "picked"),),
         "baritone", 1.3),
    Song("Ravi Holm - Sunday Engine", 88, 8, 34, "major", (0, 5, 1, 4), "hop", 0.3,
         "deep", ("dub", "fingers"), (("electric piano", "halves"), ("guitar", "picked")),
         "tenor", 0.9),
    Song("Velvet Turnstile - Third Platform", 140, 12, 29, "minor", (0, 6, 5, 6), "rock", 0.0,
         "tight", ("eighths", "square"), (("overdriven guitar", "strummed"),),
         "shouter", 0.8),
    Song("Oona Hart - Borrowed Weather", 84, 8, 31, "major", (3, 0, 4, 5), "soul", 0.2,
         "studio", ("roots", "fingers"), (("organ", "halves"), ("electric piano", "offbeats")),
         "alto", 1.5),
    Song("Concrete Orchard - Ninety Floors", 92, 8, 28, "harmonic", (0, 3, 5, 4), "half", 0.15,
         "machine", ("pushed", "sub"), (("synth", "pulsing"), ("pad", "held")),
         "baritone", 1.8),
    Song("Juniper Static - Wavelength", 150, 14, 35, "mixolydian", (0, 3, 6, 0), "break", 0.0,
         "tight", ("octaves", "square"), (("synth", "stabs"), ("organ", "held")),
         "soprano", 1.0),
    Song("The Slow Couriers - Letters Home", 118, 10, 36, "major", (0, 2, 3, 4), "train", 0.0,
         "brushes", ("walking", "fingers"), (("guitar", "strummed"), ("guitar", "picked")),
         "baritone", 0.8),
    Song("Palma Negra - Calle del Faro", 100, 8, 33, "harmonic", (0, 3, 4, 0), "bossa", 0.0,
         "brushes", ("pushed", "fingers"), (("guitar", "pushed"), ("pad", "held")),
         "alto", 1.2),
)  # fmt: skip
_VALIDATION = (
    Song("Tin Harbour - Signal Fires", 132, 12, 28, "minor", (0, 2, 6, 3), "rock", 0.0,
         "studio", ("roots", "saw"), (("overdriven guitar", "held"), ("synth", "pulsing")),
         "tenor", 1.4),
    Song("Mira Solano - Half Awake", 90, 8, 32, "dorian", (0, 2, 3, 5), "hop", 0.25,
         "machine", ("dub", "sub"), (("electric piano", "pushed"), ("guitar", "picked")),
         "whisperer", 1.1),
    Song("Copper Ballroom - Last Waltz in Lund", 132, 16, 31, "major", (0, 5, 3, 4), "waltz", 0.0,
         "brushes", ("three", "fingers"), (("organ", "held"), ("guitar", "picked")),
         "soprano", 1.7),
)  # fmt: skip
_TEST = (
    Song("Arctic Picnic - Thaw", 120, 10, 30, "major", (5, 3, 0, 4), "floor", 0.0,
         "club", ("octaves", "saw"), (("synth", "rippling"), ("pad", "held")),
         "alto", 1.5),
    Song("Delia Frost - Nothing but Neon", 98, 8, 35, "dorian", (0, 3, 0, 6), "funk", 0.18,
         "studio", ("funky", "square"), (("guitar", "offbeats"), ("organ", "halves")),
         "soprano", 0.9),
    Song("The Paper Engineers - Fold Line", 108, 10, 29, "minor", (0, 3, 5, 4), "soul", 0.0,
         "deep", ("walking", "fingers"), (("electric piano", "strummed"), ("pad", "held")),
         "baritone", 1.2),
)  # fmt: skip
SONGS = _TRAIN + _VALIDATION + _TEST
VALIDATION_TRACKS: tuple[str, ...] = tuple(song.name for song in _VALIDATION)

# Composition: a song and a generator in, notes out

_Generator = np.random.Generator
_VELOCITY = {"X": 1.0, "x": 0.75, "o": 0.35}
_TAIL_SECONDS = 2.4


@dataclass(frozen=True)
class _Plan:
    """When things happen in a song."""

    song: Song

    @property
    def steps(self) -> int:
        """Sixteenths in a bar."""
        return len(_GROOVES[self.song.groove]["kick"])

    @property
    def starts(self) -> tuple[int, int, int]:
        """Bars on which the verse, the chorus and the final chord begin; phrases last two bars."""
        verse = 2 if self.song.bars <= 12 else 4
        return verse, verse + (self.song.bars - verse) // 4 * 2, self.song.bars

    def seconds(self, step: float) -> float:
        """Instant of a sixteenth counted from the start of the song."""
        late = self.song.swing if step % 2 == 1 else 0.0
        return 0.03 + (step + late) * 15.0 / self.song.tempo_bpm

    def chord(self, bar: int, size: int = 3) -> tuple[int, ...]:
        """Tones of a bar's chord, from the root up, with the root at or above the tonic."""
        if bar >= self.song.bars:  # the song ends on the tonic
            degree = 0
        else:
            degree = self.song.progression[bar % len(self.song.progression)]
        return tuple(self.degree(degree + 2 * third) for third in range(size))

    def degree(self, degree: int) -> int:
        """MIDI pitch of a degree of the scale, 0 being the lowest tonic."""
        octave, step = divmod(degree, 7)
        return self.song.tonic + 12 * octave + _MODES[self.song.mode][step]

    def note(
        self, start: int, end: int, pitch: float, velocity: float, generator: _Generator,
        sound: str = "", loose_seconds: float = 0.004,
    ) -> Note:  # fmt: skip
        """A note between two sixteenths, as a person plays it: never quite on time."""
        begin = max(self.seconds(start) + loose_seconds * generator.standard_normal(), 0.0)
        strength = velocity * generator.uniform(0.85, 1.0)
        return Note(begin, max(self.seconds(end) - begin - 0.01, 0.04), pitch, strength, sound)


def _runs(pattern: str) -> Iterable[tuple[int, int, str]]:
    """Notes of a pattern as (first step, step after the last, character)."""
    for start, character in enumerate(pattern):
        if character not in "-.":
            end = start + 1
            while end < len(pattern) and pattern[end] == "-":
                end += 1
            yield start, end, character


def _compose_drums(plan: _Plan, generator: _Generator) -> list[Note]:
    notes = []

    def strike(step: int, drum: str, velocity: float) -> None:
        notes.append(plan.note(step, step + 1, 0.0, velocity, generator, drum))

    for bar in range(plan.song.bars):
        first, steps = bar * plan.steps, plan.steps
        filled = steps - int(generator.choice([4, 6])) if bar + 1 in plan.starts else steps
        for drum, pattern in _GROOVES[plan.song.groove].items():
            for step, _, character in _runs(pattern[:filled]):
                if bar < plan.starts[0] // 2 and drum == "snare":
                    continue  # the intro begins without
                if character != "o" or generator.random() < 0.8:
                    strike(first + step, drum, _VELOCITY[character])
        toms = ["snare", "high", "high", "middle", "middle", "low", "low", "low"]
        for place_in_fill, step in enumerate(range(filled, steps)):
            if generator.random() < 0.85:
                drum = toms[place_in_fill + int(generator.integers(0, 2))]
                strike(first + step, drum, 0.6 + 0.4 * place_in_fill / (steps - filled))
    for bar in plan.starts:
        strike(bar * plan.steps, "crash", 0.9)
    strike(plan.song.bars * plan.steps, "kick", 1.0)
    return notes


def _compose_bass(plan: _Plan, generator: _Generator) -> list[Note]:
    notes = []
    pattern = _BASS_LINES[plan.song.bass[0]]
    fold = 28 + 12 * (plan.song.bass[1] == "sub" and plan.song.tonic < 30)  # keep a sub audible

    def low(pitch: int) -> int:
        return fold + (pitch - fold) % 12

    for bar in range(plan.song.bars):
        root, third, fifth = plan.chord(bar)
        coming = low(plan.chord(bar + 1)[0])
        lead = coming + int(generator.choice([-2, -1, 2])) if coming != low(root) else coming
        tones = {"1": low(root), "3": low(root) + third - root, "5": low(root) + fifth - root}
        tones |= {"8": low(root) + 12, "a": lead}
        for start, end, character in _runs(pattern):
            first = bar * plan.steps
            velocity = 0.95 if start == 0 else 0.8
            notes.append(
                plan.note(first + start, first + end, tones[character], velocity, generator)
            )
    end = plan.song.bars * plan.steps
    return [*notes, plan.note(end, end + 8, low(plan.chord(plan.song.bars)[0]), 0.9, generator)]


def _compose_chords(plan: _Plan, part: int, generator: _Generator) -> list[Note]:
    notes = []
    instrument, comping = plan.song.other[part]
    power = instrument == "overdriven guitar"  # a distorted third growls: root, fifth, octave
    lowest = {"overdriven guitar": 40, "guitar": 50, "synth": 58}.get(instrument, 52) + 3 * part

    def spread(bar: int) -> list[int]:
        chord = plan.chord(bar, 4 if instrument in ("electric piano", "pad") else 3)
        if power:
            root = lowest + (chord[0] - lowest) % 12
            return [root, root + 7, root + 12, root + 12]
        tones = sorted(lowest + (pitch - lowest) % 12 for pitch in chord)
        return [*tones, tones[0] + 12][:4]

    for bar in range(0 if part == 0 else plan.starts[0], plan.song.bars + 1):
        last = bar == plan.song.bars
        pattern = "x" + 7 * "-" if last else _COMPING[comping][: plan.steps]
        tones = spread(bar)
        for start, end, character in _runs(pattern):
            chosen = tones if character == "x" else [tones[int(character)]]
            velocity = 0.9 if start % 4 == 0 else 0.7
            first = bar * plan.steps
            strum = 0.011 if "guitar" in instrument else 0.0
            for string, pitch in enumerate(chosen):
                note = plan.note(first + start, first + end, pitch, velocity, generator)
                begin = note.start_seconds + strum * string
                notes.append(Note(begin, note.duration_seconds, pitch, note.velocity))
    return notes


def _syllable(generator: _Generator) -> str:
    consonant = str(generator.choice(["", *CONSONANTS]))
    vowel = str(generator.choice(list(VOWELS)))
    glide = str(generator.choice(["", "", "i", "u"])) if vowel in "aeo" else ""
    return consonant + vowel + glide


def _phrase_rhythm(plan: _Plan, generator: _Generator) -> list[tuple[int, int]]:
    """Notes of a phrase of two bars, (first step, step after the last), with a rest at the end."""
    lengths = [2, 2, 2, 3, 4, 4, 6] if plan.song.tempo_bpm < 110 else [2, 3, 4, 4, 4, 6, 8]
    runs, step = [], int(generator.choice([0, 0, 2, 4]))
    while step < 2 * plan.steps * 0.62:
        end = step + int(generator.choice(lengths))
        runs.append((step, end))
        step = end
    return [*runs, (step, max(int(2 * plan.steps * 0.8), step + 4))]


def _compose_melody(plan: _Plan, generator: _Generator) -> tuple[list[Note], list[Note]]:
    """The melody, and a second voice for the chorus, a third or fourth above."""
    lowest = _VOICES[plan.song.voice].lowest
    scale = {plan.degree(degree) % 12 for degree in range(7)}
    ladder = [pitch for pitch in range(int(lowest), int(lowest) + 22) if pitch % 12 in scale]
    reach = 8  # rungs of the melody; those above are for the second voice
    lead, second = [], []
    for section, (begin, end) in enumerate(zip(plan.starts[:2], plan.starts[1:], strict=True)):
        motifs = []
        for _ in range(2):
            rhythm = _phrase_rhythm(plan, generator)
            contour = generator.choice([-2, -1, -1, 0, 1, 1, 2, 3], len(rhythm))
            motifs.append((rhythm, contour, [_syllable(generator) for _ in rhythm]))
        for phrase, bar in enumerate(range(begin, end, 2)):
            rhythm, contour, words = motifs[phrase % 2]
            if section == 0:  # verses repeat the tune, choruses the words too
                words = [_syllable(generator) for _ in rhythm]
            rung = int(generator.integers(2, 4)) + 2 * section
            for (start, stop), move, word in zip(rhythm, contour, words, strict=True):
                rung = int(np.clip(rung + move, 0, reach))
                chord = {p % 12 for p in plan.chord(min(bar + start // plan.steps, end - 1))}
                if start % 4 == 0 or stop - start >= 4:  # what is stressed or held is consonant
                    tones = [r for r in range(reach + 1) if ladder[r] % 12 in chord]
                    rung = min(tones, key=lambda r, near=rung: abs(r - near))  # type: ignore[misc]
                first = bar * plan.steps
                velocity = 0.8 + 0.15 * section
                note = plan.note(
                    first + start, first + stop, ladder[rung], velocity, generator, word, 0.012
                )
                lead.append(note)
                above = [r for r in range(rung + 2, rung + 4) if ladder[r] % 12 in chord]
                if section == 1:
                    pitch = ladder[above[0] if above else rung + 2]
                    begin_seconds = note.start_seconds + 0.01 * generator.standard_normal()
                    second.append(Note(begin_seconds, note.duration_seconds, pitch, 0.8, word))
    return lead, second


# Mixing

_LEVEL_DB = {"vocals": 0.0, "drums": -1.5, "bass": -2.5, "other": -3.0}
_WET_DB = {"vocals": -13.0, "drums": -15.0, "bass": -30.0, "other": -14.0}
_CREST = 4.5  # peaks beyond this multiple of a stem's RMS are rounded off
_PEAK = 0.89 * 32767


def _room(seconds: float, generator: _Generator) -> Signal:
    """Impulse response of a room: decaying noise, another at each ear, of unit energy, (N, 2)."""
    time = np.arange(samples(seconds * 1.2)) / SAMPLE_RATE
    noise = generator.standard_normal((len(time), 2)) * 10.0 ** (-3.0 * time / seconds)[:, None]
    noise[: samples(0.018)] = 0.0
    response = band(noise, 180.0, 6500.0)
    return np.asarray(response / np.sqrt(np.mean(np.sum(response**2, axis=0))))


def render_track(seed: int, number: int) -> dict[str, npt.NDArray[np.int16]]:
    """Compose, play and mix one song.

    Args:
        seed: Seed of the corpus.
        number: Position in :data:`SONGS`.

    Returns:
        The stems, in the order of :data:`STEMS`, each int16 of shape (T, 2) at 44 100 Hz. Their
        sum stays within 16 bits.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
    song = SONGS[number]
    plan = _Plan(song)
    length = samples(plan.seconds(song.bars * plan.steps) + _TAIL_SECONDS)

    lead, second = _compose_melody(plan, generator)
    voice = _VOICES[song.voice]
    vocals = np.zeros((length, 2))
    place(vocals, sing(lead, voice, length, generator), 0.0)
    place(vocals, 0.3 * sing(second, voice, length, generator), 0.0, -0.7)
    place(vocals, 0.3 * sing(second, voice, length, generator), 0.013, 0.7)
    drums = play_drums(_compose_drums(plan, generator), _KITS[song.kit], length, generator)
    bass = play_bass(_compose_bass(plan, generator), song.bass[1], length, generator)
    other = np.zeros((length, 2))
    side = float(generator.choice([-1.0, 1.0]))
    for part, (instrument, _) in enumerate(song.other):
        pan = side * generator.uniform(0.15, 0.4) * (-1.0) ** part * len(song.other) / 2
        notes = _compose_chords(plan, part, generator)
        sound = play_chords(notes, instrument, length, pan, generator)
        other += sound / np.sqrt(np.mean(sound**2)) * (1.0, 0.8)[part]

    room = _room(song.room_seconds, generator)
    fade = np.clip((length - np.arange(length)) / samples(0.6), 0.0, 1.0)[:, None]
    mixed = {}
    for stem, dry in zip(STEMS, (vocals, drums, np.stack([bass, bass], -1), other), strict=True):
        wet = 10 ** (_WET_DB[stem] / 20) * oaconvolve(dry, room, axes=0)[:length]
        sound = (dry + wet) * fade
        sound /= np.sqrt(np.mean(sound**2))
        sound = _CREST * np.tanh(sound / _CREST)
        mixed[stem] = sound * 10 ** ((_LEVEL_DB[stem] + generator.uniform(-1.0, 1.0)) / 20)
    loudest = max(np.abs(sound).max() for sound in (*mixed.values(), sum(mixed.values())))
    scale = _PEAK / loudest
    return {stem: np.rint(sound * scale).astype(np.int16) for stem, sound in mixed.items()}


# The corpus on disk

_STALE_SECONDS = 86_400.0


def track_folder(number: int) -> str:
    """Folder of a song inside the corpus, such as ``train/Artist - Title``."""
    subset = "train" if number < len(_TRAIN + _VALIDATION) else "test"
    return f"{subset}/{SONGS[number].name}"


def _write_track(seed: int, number: int, folder: Path) -> None:
    """Render one song into a folder: four stems, and their exact sum as the mixture."""
    stems = render_track(seed, number)
    folder.mkdir(parents=True)
    for name, sound in {"mixture": sum(stems.values()), **stems}.items():
        soundfile.write(folder / f"{name}.wav", sound, SAMPLE_RATE, subtype="PCM_16")


def _publish(finished: Path, target: Path, discarded: Path) -> None:
    """Put a finished track in its place in one step: nobody ever reads half a track."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if target.exists():
            discarded.parent.mkdir(parents=True, exist_ok=True)
            os.replace(target, discarded)
        os.replace(finished, target)
    except OSError as error:
        # Another process was quicker between the two steps: its rendering is the same as ours.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or not target.exists():
            raise


def _hashes(root: Path, number: int) -> dict[str, str]:
    """SHA-256 of each file of a song by its name in the corpus; a missing file has none."""
    files = [f"{track_folder(number)}/{name}.wav" for name in ("mixture", *STEMS)]
    return {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in files
        if (root / name).is_file()
    }


def _read_manifest(root: Path, seed: int) -> dict[str, str]:
    """Recorded hashes of the corpus; none if it is missing, damaged, or of another rendering."""
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        if (manifest["version"], manifest["seed"]) == (VERSION, seed):
            return dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def _write_manifest(root: Path, seed: int, recorded: dict[str, str], staging: Path) -> None:
    manifest = {"version": VERSION, "seed": seed, "sha256": dict(sorted(recorded.items()))}
    draft = staging / "manifest.json"
    draft.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(draft, root / "manifest.json")


def default_root(seed: int = 0) -> Path:
    """Where the corpus is kept: ``$STEMLAB_CACHE``, else ``stemlab`` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stemlab"
    name = f"demo-v{VERSION}" + (f"-seed{seed}" if seed else "")
    return Path(os.environ.get("STEMLAB_CACHE") or cache).expanduser() / name


def _leave_with_parent() -> None:
    """Let a worker end when its parent is killed: the pool would keep it waiting for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def demo_corpus(
    root: Path | None = None, seed: int = 0, numbers: Sequence[int] = range(len(SONGS))
) -> Path:
    """Find the embedded corpus, after rendering what is missing or damaged.

    Args:
        root: Its folder; by default :func:`default_root`.
        seed: Which corpus: the songs keep their style, and everything they play is new.
        numbers: Positions in :data:`SONGS` of the tracks wanted.

    Returns:
        The folder, in the layout of MUSDB18-HQ.
    """
    root = default_root(seed) if root is None else root
    recorded = _read_manifest(root, seed)
    with ThreadPoolExecutor() as threads:
        found = dict(zip(numbers, threads.map(lambda n: _hashes(root, n), numbers), strict=True))
    wanted = []
    for number in numbers:
        prefix = track_folder(number) + "/"
        expected = {name: value for name, value in recorded.items() if name.startswith(prefix)}
        if len(expected) <= len(STEMS) or found[number] != expected:
            wanted.append(number)
            if expected:
                logger.warning("%s is missing or damaged: rendering it again", root / prefix)
    if not wanted:
        return root
    root.mkdir(parents=True, exist_ok=True)
    workers = min(4, os.cpu_count() or 1, len(wanted))
    # Beside the corpus: on the same file system, so that finished tracks can be moved in one step.
    prefix = f".{root.name}-"
    for left in root.resolve().parent.iterdir():  # by killed runs; another process may be tidying
        with suppress(FileNotFoundError):
            if left.name.startswith(prefix) and time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(dir=root.resolve().parent, prefix=prefix) as folder,
        ProcessPoolExecutor(workers, get_context("spawn"), _leave_with_parent) as pool,
    ):
        staging = Path(folder)
        jobs = {pool.submit(_write_track, seed, n, staging / track_folder(n)): n for n in wanted}
        try:
            for job in tqdm(
                as_completed(jobs), "rendering the demo corpus", len(jobs), unit="track"
            ):
                job.result()
                track = track_folder(jobs[job])
                recorded |= _hashes(staging, jobs[job])
                _publish(staging / track, root / track, staging / "discarded" / track)
                _write_manifest(root, seed, recorded, staging)
        except BaseException:  # such as Control-C: do not wait for the tracks not yet begun
            pool.shutdown(cancel_futures=True)
            raise
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Render the corpus from the command line and print its folder.

    Args:
        arguments: Words after the command; by default those of this process.
    """
    parser = argparse.ArgumentParser("python -m datamodules.demo", description="Render the corpus.")
    parser.add_argument("root", nargs="?", type=Path, help="folder; by default in the user's cache")
    parser.add_argument("--seed", type=int, default=0, help="another corpus in the same styles")
    options = parser.parse_args(arguments)
    print(demo_corpus(options.root, options.seed))


if __name__ == "__main__":
    main()
