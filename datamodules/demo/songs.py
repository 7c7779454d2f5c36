"""Composition of the parts of a song of the demo corpus, from its style and form."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from datamodules.demo.patterns import BASS_LINES, COMPING, GROOVES
from datamodules.demo.styles import MODES, Part, Section, Song, choice
from datamodules.demo.synthesis import Note
from datamodules.demo.voice import CONSONANTS, VOWELS

_Generator = np.random.Generator
_VELOCITY = {"X": 1.0, "x": 0.75, "o": 0.35}


class Plan:
    """Harmony and notes of a song.

    Args:
        song: Its style and form.
        generator: Draws deviations of time and strength.
    """

    def __init__(self, song: Song, generator: _Generator) -> None:
        self.song = song
        self.generator = generator

    def sections(self, stem: str) -> list[Section]:
        """Sections in which a stem plays."""
        return [section for section in self.song.sections if stem in section.playing]

    def chord(self, bar: int, size: int = 3) -> tuple[int, ...]:
        """Pitches of a bar's chord from the root up; the root is not below the tonic."""
        degree = 0  # the song ends on the tonic
        for section in self.song.sections:
            if section.first <= bar < section.end:
                degrees = self.song.progressions[section.kind]
                degree = degrees[(bar - section.first) % len(degrees)]
        return tuple(self.degree(degree + 2 * third) for third in range(size))

    def degree(self, degree: int) -> int:
        """MIDI pitch of a degree of the scale; 0 is the lowest tonic."""
        octave, step = divmod(degree, 7)
        return self.song.tonic + 12 * octave + MODES[self.song.mode][step]

    def note(
        self, start: int, end: int, pitch: float, velocity: float,
        sound: str = "", loose_seconds: float = 0.004, late_seconds: float = 0.0,
    ) -> Note:  # fmt: skip
        """A note between two sixteenths, with random deviations of time and velocity."""
        begin = self.song.seconds(start) + loose_seconds * self.generator.standard_normal()
        begin = max(begin + late_seconds, 0.0)
        strength = velocity * self.generator.uniform(0.85, 1.0)
        return Note(begin, max(self.song.seconds(end) - begin - 0.01, 0.04), pitch, strength, sound)


def _runs(pattern: str) -> Iterable[tuple[int, int, str]]:
    """Notes of a pattern as (first step, step after the last, character)."""
    for note in re.finditer(r"[^-.]-*", pattern):
        yield note.start(), note.end(), note[0][0]


def _varied(patterns: dict[str, str], generator: _Generator) -> dict[str, str]:
    """Patterns with some ghost notes added and some weak strokes left out."""
    varied = {}
    for drum, pattern in patterns.items():
        draws = generator.random(len(pattern))
        ghosts = 0.03 if drum in ("kick", "block") else 0.08
        varied[drum] = "".join(
            "o" if character == "." and draw < ghosts
            else "." if character in "xo" and draw > 0.93 else character
            for character, draw in zip(pattern, draws, strict=True)
        )  # fmt: skip
    return varied


def compose_drums(plan: Plan) -> list[Note]:
    """The drum part: a groove varied by section, fills before sections, crashes at their start."""
    song, generator = plan.song, plan.generator
    notes = []
    steps = song.steps
    loose = 0.001 if song.kit.variants == 1 else 0.005

    def strike(step: int, drum: str, velocity: float) -> None:
        notes.append(plan.note(step, step + 1, 0.0, velocity, drum, loose))

    patterns = _varied(GROOVES[song.groove], generator) | song.percussion
    sections = plan.sections("drums")
    for section in sections:
        drums = {
            drum: pattern
            for drum, pattern in patterns.items()
            if section.kind in ("chorus", "solo") or generator.random() < 0.85
        } or patterns
        if section.kind in ("chorus", "solo") and "hat" in drums and generator.random() < 0.4:
            drums["ride"] = drums.pop("hat")
        for bar in range(section.first, section.end):
            first = bar * steps
            fill = int(generator.choice([2, 4, 6, 8])) if generator.random() < 0.75 else 0
            filled = steps - fill if bar + 1 == section.end else steps
            for drum, pattern in drums.items():
                for step, _, character in _runs(pattern[:filled]):
                    if character != "o" or generator.random() < 0.8:
                        strike(first + step, drum, _VELOCITY[character] * section.intensity)
            _compose_fill(first, filled, steps, strike, generator)
        if section.kind != "intro" and generator.random() < 0.7:
            strike(section.first * steps, "crash", 0.9 * section.intensity)
    if sections[-1].end == song.bars:
        strike(song.bars * steps, "kick", 1.0)
        strike(song.bars * steps, "crash", 0.8)
    return notes


def _compose_fill(
    first: int,
    begin: int,
    end: int,
    strike: Callable[[int, str, float], None],
    generator: _Generator,
) -> None:
    """A break down the toms, a roll of the snare, or silence."""
    toms = ["snare", "high", "high", "middle", "middle", "low", "low", "low", "low"]
    kind = choice(("toms", "toms", "roll", "silence"), generator)
    for place, step in enumerate(range(begin, end)):
        if kind == "silence" or generator.random() > 0.85:
            continue
        drum = "snare" if kind == "roll" else toms[place + int(generator.integers(0, 2))]
        strike(first + step, drum, 0.5 + 0.5 * place / (end - begin))


def compose_bass(plan: Plan) -> list[Note]:
    """The bass line: a pattern on each bar's chord that leads to the next root."""
    song, generator = plan.song, plan.generator
    notes = []
    lowest = int(generator.integers(25, 33))

    def low(pitch: int) -> int:
        return lowest + (pitch - lowest) % 12

    for section in plan.sections("bass"):
        for bar in range(section.first, section.end):
            root, third, fifth = plan.chord(bar)
            coming = low(plan.chord(bar + 1)[0])
            lead = coming + int(generator.choice([-2, -1, 2])) if coming != low(root) else coming
            tones = {"1": low(root), "3": low(root) + third - root, "5": low(root) + fifth - root}
            tones |= {"8": low(root) + 12, "a": lead}
            for start, end, character in _runs(BASS_LINES[song.bass_lines[section.kind]]):
                first = bar * song.steps
                velocity = section.intensity * (1.0 if start == 0 else 0.85)
                notes.append(plan.note(first + start, first + end, tones[character], velocity))
    if plan.sections("bass")[-1].end == song.bars:
        end = song.bars * song.steps
        notes.append(plan.note(end, end + 8, low(plan.chord(song.bars)[0]), 0.9))
    return notes


def compose_chords(plan: Plan, number: int) -> list[Note]:
    """The part of an instrument, by its index in ``Song.other``."""
    song = plan.song
    part = song.other[number]
    notes = []
    lowest = {"overdriven guitar": 40, "guitar": 48, "acoustic guitar": 45, "synth": 57}.get(
        part.instrument, int(plan.generator.integers(38, 60))
    )
    for section in plan.sections("other"):
        if section.kind in part.kinds:
            pattern = COMPING[part.comping][: song.steps]
            for bar in range(section.first, section.end):
                notes += _bar_of_chords(plan, part, bar, lowest, pattern, section.intensity)
    if notes and plan.sections("other")[-1].end == song.bars:
        notes += _bar_of_chords(plan, part, song.bars, lowest, "x-------", 0.8)
    return notes


def _bar_of_chords(
    plan: Plan, part: Part, bar: int, lowest: int, pattern: str, intensity: float
) -> list[Note]:
    chord = plan.chord(bar, 4 if part.instrument in ("electric piano", "pad", "strings") else 3)
    if part.instrument == "overdriven guitar":  # no third: root, fifth, octave
        root = lowest + (chord[0] - lowest) % 12
        tones = [root, root + 7, root + 12, root + 12]
    else:
        tones = sorted(lowest + (pitch - lowest) % 12 for pitch in chord)
        tones = [*tones, tones[0] + 12][:4]
    notes = []
    strum_seconds = 0.011 if "guitar" in part.instrument else 0.0
    first = bar * plan.song.steps
    for start, end, character in _runs(pattern):
        velocity = intensity * (1.0 if start % 4 == 0 else 0.8)
        chosen = tones if character == "x" else [tones[int(character)]]
        for string, pitch in enumerate(chosen):
            late = strum_seconds * string
            notes.append(plan.note(first + start, first + end, pitch, velocity, late_seconds=late))
    return notes


def compose_solo(plan: Plan) -> list[Note]:
    """A melody of one instrument for each solo."""
    sections = [each for each in plan.sections("other") if each.kind == "solo"]
    ladder = _ladder(plan, int(plan.generator.integers(57, 70)), 22)
    return [note for section in sections for note, _ in _compose_tune(plan, section, ladder, 9)]


def _syllable(generator: _Generator) -> str:
    onset: str = choice(("", *CONSONANTS), generator)
    coda = choice(("", "", "", "s", "t", "n", "m", "d", "l", "k"), generator)
    vowel = choice(VOWELS, generator)
    glide = choice(("", "", "I", "U"), generator) if vowel in "aEOV" else ""
    return onset + vowel + glide + coda


def _phrase_rhythm(plan: Plan, steps: int) -> list[tuple[int, int]]:
    """Notes of a phrase as (first step, step after the last), with a rest at the end."""
    generator = plan.generator
    if plan.song.delivery == "spoken":
        lengths = [1, 1, 2, 2, 2, 3]
    elif plan.song.tempo_bpm < 110:
        lengths = [1, 2, 2, 2, 3, 4, 4, 6]
    else:
        lengths = [2, 3, 4, 4, 4, 6, 8]
    runs, step = [], int(generator.choice([0, 0, 2, 4]))
    last = steps * generator.uniform(0.5, 0.75)
    while step < last:
        end = step + int(generator.choice(lengths))
        runs.append((step, end))
        step = end
    return [*runs, (step, min(max(step + 2, int(0.85 * steps)), steps))] if step < steps else runs


def _ladder(plan: Plan, lowest: int, range_semitones: int) -> list[int]:
    """Pitches of the scale from the lowest up."""
    scale = {plan.degree(degree) % 12 for degree in range(7)}
    return [pitch for pitch in range(lowest, lowest + range_semitones) if pitch % 12 in scale]


def _compose_tune(
    plan: Plan, section: Section, ladder: list[int], reach: int
) -> list[tuple[Note, int]]:
    """Notes of a section's melody with their rungs; it uses the rungs of the ladder to `reach`."""
    song, generator = plan.song, plan.generator
    bars = 2 if song.seconds(song.steps) < 3.0 else 1  # of a phrase
    motifs = []
    for _ in range(2):
        rhythm = _phrase_rhythm(plan, bars * song.steps)
        contour = generator.choice([-2, -1, -1, 0, 1, 1, 2, 3], len(rhythm))
        motifs.append((rhythm, contour, [_syllable(generator) for _ in rhythm]))
    tune = []
    for phrase, bar in enumerate(range(section.first, section.end, bars)):
        rhythm, contour, words = motifs[phrase % 2]
        if section.kind == "verse":  # verses repeat the tune, choruses also the words
            words = [_syllable(generator) for _ in rhythm]
        rung = int(generator.integers(1, 4)) + 2 * (section.kind != "verse")
        for (start, stop), move, word in zip(rhythm, contour, words, strict=True):
            if bar + start // song.steps >= section.end:
                break
            rung = int(np.clip(rung + move, 0, reach))
            chord = {p % 12 for p in plan.chord(bar + start // song.steps)}
            if start % 4 == 0 or stop - start >= 4:  # stressed and long notes are consonant
                tones = [r for r in range(reach + 1) if ladder[r] % 12 in chord]
                rung = min(tones, key=lambda r, near=rung: abs(r - near))  # type: ignore[misc]
            first = bar * song.steps
            velocity = section.intensity * generator.uniform(0.85, 1.0)
            note = plan.note(first + start, first + stop, ladder[rung], velocity, word, 0.012)
            tune.append((note, rung))
    return tune


def compose_melody(plan: Plan) -> tuple[list[Note], list[Note]]:
    """The melody, and a second voice in the chorus, a third or fourth above."""
    song, generator = plan.song, plan.generator
    lowest = round(song.voice.lowest)
    ladder = _ladder(plan, lowest, 26)
    lead, second = [], []
    for section in plan.sections("vocals"):
        for note, rung in _compose_tune(plan, section, ladder, 9):
            pitch = note.pitch
            if song.delivery == "spoken":  # free pitches that fall over a phrase
                pitch = lowest + 2.0 + 0.5 * (pitch - lowest) + generator.normal(0.0, 1.2)
            start, seconds = note.start_seconds, note.duration_seconds
            lead.append(Note(start, seconds, pitch, note.velocity, note.sound))
            if section.kind == "chorus" and song.delivery == "sung":
                begin = max(start + 0.01 * generator.standard_normal(), 0.0)
                second.append(Note(begin, seconds, ladder[rung + 2], 0.8, note.sound))
    return lead, second
