"""Styles of the songs of the demo corpus, and the composition of their parts.

A song fixes tempo, harmony, patterns and instruments; a random generator composes the notes of each
part.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from datamodules.demo.instruments import Kit
from datamodules.demo.synthesis import Note
from datamodules.demo.voice import CONSONANTS, VOWELS, Voice


@dataclass(frozen=True)
class Song:
    """Style of a song, independent of the seed.

    Args:
        name: Artist and title.
        tempo_bpm: Quarter notes per minute.
        bars: Length without the final chord.
        tonic: Lowest tonic of the bass, MIDI pitch.
        mode: Key of ``_MODES``.
        progression: Degrees of the scale (0 is the tonic), one chord per bar, repeated.
        groove: Key of ``_GROOVES``.
        swing: Delay of every second sixteenth, as a share of a sixteenth.
        kit: Key of ``KITS``.
        bass: Key of ``_BASS_LINES``, and timbre.
        other: Instruments with keys of ``_COMPING``; all but the first enter with the verse.
        voice: Key of ``VOICES``.
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
# One character per sixteenth: X is an accent, x a stroke, o a ghost note.
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
# 1, 3, 5 and 8 are chord tones, a leads to the next root, - holds, . rests.
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
# x is the full chord, a digit one of its tones.
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
KITS = {
    "studio": Kit(),
    "deep": Kit(46, 0.19, 0.3, 165, 0.15, 0.65, 0.0, 6500, 0.05, 82),
    "tight": Kit(60, 0.09, 0.8, 220, 0.07, 0.6, 0.0, 8000, 0.025, 110),
    "machine": Kit(44, 0.30, 0.2, 190, 0.08, 0.8, 0.8, 8500, 0.03, 90),
    "club": Kit(50, 0.16, 0.9, 200, 0.09, 0.85, 1.0, 9000, 0.03, 100),
    "brushes": Kit(58, 0.11, 0.15, 200, 0.17, 0.9, 0.0, 6000, 0.06, 105),
}
"""Drum kits by name."""
VOICES = {
    "soprano": Voice(1.19, 62, 5.9, 50, 0.03, 2200),
    "alto": Voice(1.13, 56, 5.4, 40, 0.05, 2400),
    "tenor": Voice(1.03, 51, 5.6, 45, 0.025, 3000),
    "baritone": Voice(0.98, 45, 5.1, 35, 0.03, 2600),
    "whisperer": Voice(1.15, 57, 5.0, 22, 0.16, 1500),
    "shouter": Voice(1.05, 54, 6.0, 30, 0.02, 4500),
}
"""Singers by name."""
TRAIN = (
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
"""Songs for training."""
VALIDATION = (
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
"""Songs for validation; they are part of the training subset."""
TEST = (
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
"""Songs for testing."""

# Composition: notes of each part

_Generator = np.random.Generator
_VELOCITY = {"X": 1.0, "x": 0.75, "o": 0.35}


@dataclass(frozen=True)
class Plan:
    """Timing and harmony of a song."""

    song: Song

    @property
    def steps(self) -> int:
        """Sixteenths in a bar."""
        return len(_GROOVES[self.song.groove]["kick"])

    @property
    def starts(self) -> tuple[int, int, int]:
        """First bars of verse, chorus and final chord; phrases last two bars."""
        verse = 2 if self.song.bars <= 12 else 4
        return verse, verse + (self.song.bars - verse) // 4 * 2, self.song.bars

    def seconds(self, step: float) -> float:
        """Time of a sixteenth, counted from the start of the song."""
        late = self.song.swing if step % 2 == 1 else 0.0
        return 0.03 + (step + late) * 15.0 / self.song.tempo_bpm

    def chord(self, bar: int, size: int = 3) -> tuple[int, ...]:
        """Pitches of a bar's chord from the root up; the root is not below the tonic."""
        if bar >= self.song.bars:  # the song ends on the tonic
            degree = 0
        else:
            degree = self.song.progression[bar % len(self.song.progression)]
        return tuple(self.degree(degree + 2 * third) for third in range(size))

    def degree(self, degree: int) -> int:
        """MIDI pitch of a degree of the scale; 0 is the lowest tonic."""
        octave, step = divmod(degree, 7)
        return self.song.tonic + 12 * octave + _MODES[self.song.mode][step]

    def note(
        self, start: int, end: int, pitch: float, velocity: float, generator: _Generator,
        sound: str = "", loose_seconds: float = 0.004,
    ) -> Note:  # fmt: skip
        """A note between two sixteenths, with random deviations of time and velocity."""
        begin = max(self.seconds(start) + loose_seconds * generator.standard_normal(), 0.0)
        strength = velocity * generator.uniform(0.85, 1.0)
        return Note(begin, max(self.seconds(end) - begin - 0.01, 0.04), pitch, strength, sound)


def _runs(pattern: str) -> Iterable[tuple[int, int, str]]:
    """Notes of a pattern as (first step, step after the last, character)."""
    for note in re.finditer(r"[^-.]-*", pattern):
        yield note.start(), note.end(), note[0][0]


def compose_drums(plan: Plan, generator: _Generator) -> list[Note]:
    """The drum part: a groove, a fill before each section, a crash at its start."""
    notes = []

    def strike(step: int, drum: str, velocity: float) -> None:
        notes.append(plan.note(step, step + 1, 0.0, velocity, generator, drum))

    for bar in range(plan.song.bars):
        first, steps = bar * plan.steps, plan.steps
        filled = steps - int(generator.choice([4, 6])) if bar + 1 in plan.starts else steps
        for drum, pattern in _GROOVES[plan.song.groove].items():
            for step, _, character in _runs(pattern[:filled]):
                if bar < plan.starts[0] // 2 and drum == "snare":
                    continue  # no snare at the start of the intro
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


def compose_bass(plan: Plan, generator: _Generator) -> list[Note]:
    """The bass line: a pattern on each bar's chord that leads to the next root."""
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
            first, velocity = bar * plan.steps, 0.95 if start == 0 else 0.8
            note = plan.note(first + start, first + end, tones[character], velocity, generator)
            notes.append(note)
    end = plan.song.bars * plan.steps
    return [*notes, plan.note(end, end + 8, low(plan.chord(plan.song.bars)[0]), 0.9, generator)]


def compose_chords(plan: Plan, part: int, generator: _Generator) -> list[Note]:
    """The part of an instrument, by its index in :attr:`Song.other`."""
    notes = []
    instrument, comping = plan.song.other[part]
    power = instrument == "overdriven guitar"  # no third: root, fifth, octave
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


def _phrase_rhythm(plan: Plan, generator: _Generator) -> list[tuple[int, int]]:
    """Notes of a two-bar phrase as (first step, step after the last), with a rest at the end."""
    lengths = [2, 2, 2, 3, 4, 4, 6] if plan.song.tempo_bpm < 110 else [2, 3, 4, 4, 4, 6, 8]
    runs, step = [], int(generator.choice([0, 0, 2, 4]))
    while step < 2 * plan.steps * 0.62:
        end = step + int(generator.choice(lengths))
        runs.append((step, end))
        step = end
    return [*runs, (step, max(int(2 * plan.steps * 0.8), step + 4))]


def compose_melody(plan: Plan, generator: _Generator) -> tuple[list[Note], list[Note]]:
    """The melody, and a second voice in the chorus, a third or fourth above."""
    lowest = VOICES[plan.song.voice].lowest
    scale = {plan.degree(degree) % 12 for degree in range(7)}
    ladder = [pitch for pitch in range(int(lowest), int(lowest) + 22) if pitch % 12 in scale]
    reach = 8  # the melody uses the rungs up to this one, the second voice also those above
    lead, second = [], []
    for section, (begin, end) in enumerate(zip(plan.starts[:2], plan.starts[1:], strict=True)):
        motifs = []
        for _ in range(2):
            rhythm = _phrase_rhythm(plan, generator)
            contour = generator.choice([-2, -1, -1, 0, 1, 1, 2, 3], len(rhythm))
            motifs.append((rhythm, contour, [_syllable(generator) for _ in rhythm]))
        for phrase, bar in enumerate(range(begin, end, 2)):
            rhythm, contour, words = motifs[phrase % 2]
            if section == 0:  # verses repeat the tune, choruses also the words
                words = [_syllable(generator) for _ in rhythm]
            rung = int(generator.integers(2, 4)) + 2 * section
            for (start, stop), move, word in zip(rhythm, contour, words, strict=True):
                rung = int(np.clip(rung + move, 0, reach))
                chord = {p % 12 for p in plan.chord(min(bar + start // plan.steps, end - 1))}
                if start % 4 == 0 or stop - start >= 4:  # stressed and long notes are consonant
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
