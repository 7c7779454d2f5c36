"""Styles and forms of the songs of the demo corpus, drawn from a seed.

A :class:`Song` is what its musicians agree on: tempo, key, chords, sections and instruments.
:mod:`datamodules.demo.songs` composes the notes of each part, :mod:`datamodules.demo.mix` mixes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from datamodules.demo.drums import FAMILIES, Kit, draw_kit
from datamodules.demo.instruments import BASSES, CHORD_INSTRUMENTS, Timbre
from datamodules.demo.patterns import BASS_LINES, COMPING, GROOVES, TEMPOS
from datamodules.demo.voice import Voice, draw_voice
from datamodules.tracks.layouts import STEMS

TAIL_SECONDS = 2.4
"""Length of a song after the onset of its final chord."""
_Generator = np.random.Generator
_T = TypeVar("_T")


@dataclass(frozen=True)
class Section:
    """Part of a song's form.

    Args:
        kind: intro, verse, chorus, break, solo or outro.
        first: First bar.
        end: Bar after the last.
        playing: Stems that play; a stem that rests is silent.
        intensity: Strength of the playing, in (0, 1].
    """

    kind: str
    first: int
    end: int
    playing: frozenset[str]
    intensity: float


@dataclass(frozen=True)
class Part:
    """An instrument of the stem ``other``.

    Args:
        instrument: One of ``CHORD_INSTRUMENTS``, or :data:`LEAD`.
        comping: Key of ``COMPING``, or ``solo``.
        kinds: Kinds of sections in which it plays.
        timbre: Settings of the instrument.
    """

    instrument: str
    comping: str
    kinds: frozenset[str]
    timbre: Timbre


@dataclass(frozen=True)
class Song:
    """Style and form of a song.

    Args:
        tempo_bpm: Quarter notes per minute.
        tonic: Lowest tonic of the bass, MIDI pitch.
        mode: Key of ``MODES``.
        progressions: Kind of section -> degrees of the scale (0 is the tonic), one chord per bar,
            repeated.
        groove: Key of ``GROOVES``.
        swing: Delay of every second sixteenth, as a share of a sixteenth.
        kit: Drum kit.
        percussion: Strokes of further drums, as in ``GROOVES``.
        basses: Names and settings of the sounds of the bass, played together.
        bass_lines: Kind of section -> key of ``BASS_LINES``.
        other: Instruments of the stem ``other``.
        voice: The singer.
        delivery: Way of singing: sung or spoken.
        sections: The form, in the order of time.
    """

    tempo_bpm: float
    tonic: int
    mode: str
    progressions: dict[str, tuple[int, ...]]
    groove: str
    swing: float
    kit: Kit
    percussion: dict[str, str]
    basses: tuple[tuple[str, Timbre], ...]
    bass_lines: dict[str, str]
    other: tuple[Part, ...]
    voice: Voice
    delivery: str
    sections: tuple[Section, ...]

    @property
    def bars(self) -> int:
        """Length without the final chord."""
        return self.sections[-1].end

    @property
    def steps(self) -> int:
        """Sixteenths in a bar."""
        return len(GROOVES[self.groove]["kick"])

    def seconds(self, step: float) -> float:
        """Time of a sixteenth, counted from the start of the song."""
        late = self.swing if step % 2 == 1 else 0.0
        return 0.03 + (step + late) * 15.0 / self.tempo_bpm

    @property
    def length_seconds(self) -> float:
        """Length with the final chord."""
        return self.seconds(self.bars * self.steps) + TAIL_SECONDS


MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "harmonic": (0, 2, 3, 5, 7, 8, 11),
}
"""Semitones of the degrees of scales."""
_PROGRESSIONS = (
    (0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 4), (0, 3), (0, 6, 5, 6), (0, 2, 3, 4),
    (0, 5, 1, 4), (1, 4, 0, 0), (0, 6, 3, 0), (0, 0, 3, 0), (0, 2, 5, 3), (3, 4, 2, 5), (0,),
)  # fmt: skip
_FORMS = (
    ("intro", "verse", "chorus"),
    ("verse", "chorus", "break", "chorus"),
    ("intro", "verse", "break", "chorus"),
    ("verse", "solo", "chorus"),
    ("intro", "verse", "chorus", "outro"),
    ("chorus", "verse", "break", "verse"),
    ("break", "verse", "solo", "verse", "outro"),
    ("intro", "verse", "chorus", "solo", "chorus"),
    ("verse", "break", "solo", "chorus", "outro"),
)
# Probability that vocals, drums, bass and other play in a section.
_PLAYING = {
    "intro": (0.08, 0.55, 0.45, 0.85),
    "verse": (1.0, 0.88, 0.88, 0.9),
    "chorus": (1.0, 0.98, 0.97, 0.98),
    "break": (0.4, 0.4, 0.4, 0.6),
    "solo": (0.05, 0.95, 0.95, 1.0),
    "outro": (0.25, 0.6, 0.5, 0.9),
}
_INTENSITY = {"intro": 0.65, "verse": 0.75, "chorus": 1.0, "break": 0.6, "solo": 0.95, "outro": 0.7}
_WEIGHTS = {"intro": 1.3, "verse": 2.0, "chorus": 2.0, "break": 1.5, "solo": 2.0, "outro": 1.0}
LEAD = "lead"
"""A synthesiser that plays solos; other solo instruments are those of chords."""


def draw_song(generator: _Generator) -> Song:
    """Draw the style and form of a song of 20 to 30 seconds."""
    tempo_bpm = round(float(np.exp(generator.uniform(np.log(62.0), np.log(182.0)))))
    grooves = [name for name, (low, high) in TEMPOS.items() if low <= tempo_bpm <= high]
    groove = choice(grooves, generator)
    steps = len(GROOVES[groove]["kick"])
    progressions = [_PROGRESSIONS[i] for i in generator.integers(len(_PROGRESSIONS), size=2)]
    lines = [name for name, pattern in BASS_LINES.items() if len(pattern) == steps]
    basses = generator.permutation(BASSES)[: choice((1, 1, 2), generator)]
    return Song(
        tempo_bpm=tempo_bpm,
        tonic=int(generator.integers(24, 36)),
        mode=choice(tuple(MODES), generator),
        progressions=_by_kind(*progressions),
        groove=groove,
        swing=choice((0.0, 0.0, generator.uniform(0.05, 0.35)), generator),
        kit=draw_kit(choice(FAMILIES, generator), generator),
        percussion=_draw_percussion(steps, generator),
        basses=tuple((str(name), _draw_timbre(generator)) for name in basses),
        bass_lines=_by_kind(choice(lines, generator), choice(lines, generator)),
        other=_draw_parts(generator),
        voice=draw_voice(generator),
        delivery="spoken" if generator.random() < 0.18 else "sung",
        sections=_draw_form(steps * 15.0 / tempo_bpm, generator),
    )


def choice(values: Sequence[_T], generator: _Generator) -> _T:
    """Draw one of several values."""
    return values[int(generator.integers(len(values)))]


def _by_kind(first: _T, second: _T) -> dict[str, _T]:
    """Kind of section -> the first value in verses and what is like them, else the second."""
    return {kind: first if kind in ("intro", "verse", "outro") else second for kind in _PLAYING}


def _draw_timbre(generator: _Generator) -> Timbre:
    brightness, sustain, detune = np.exp(generator.normal(0.0, (0.4, 0.35, 0.5)))
    return Timbre(float(brightness), float(sustain), float(detune))


def _draw_form(bar_seconds: float, generator: _Generator) -> tuple[Section, ...]:
    """Draw sections in which each stem plays for at least 30 % of the song."""
    while True:
        kinds = choice(_FORMS, generator)
        bars = int(generator.uniform(17.7 + bar_seconds, 27.4) / bar_seconds)
        weights = [_WEIGHTS[kind] for kind in kinds]
        cuts = np.rint(np.cumsum([0.0, *weights]) / sum(weights) * bars).astype(int).tolist()
        sections = []
        for kind, first, end in zip(kinds, cuts, cuts[1:], strict=False):
            playing = [
                stem
                for stem, probability in zip(STEMS, _PLAYING[kind], strict=True)
                if generator.random() < probability
            ]
            intensity = _INTENSITY[kind] * generator.uniform(0.85, 1.0)
            if first < end:
                sections.append(Section(kind, first, end, frozenset(playing), intensity))
        shares = [
            sum(section.end - section.first for section in sections if stem in section.playing)
            for stem in STEMS
        ]
        if min(shares) >= 0.3 * bars and all(section.playing for section in sections):
            return tuple(sections)


def _draw_percussion(steps: int, generator: _Generator) -> dict[str, str]:
    """Draw patterns of a bar for some further drums."""
    patterns = {}
    for drum in ("shaker", "conga", "slap", "block"):
        if generator.random() < 0.2:
            density = generator.uniform(0.5, 0.9) if drum == "shaker" else 0.3
            beats = "".join("x" if step % 4 == 0 else "o" for step in range(steps))
            struck = generator.random(steps) < density
            patterns[drum] = "".join(c if s else "." for c, s in zip(beats, struck, strict=True))
    return patterns


def _draw_parts(generator: _Generator) -> tuple[Part, ...]:
    """Draw one to three instruments, the first of which always plays, and one for solos."""
    parts = []
    for number in range(choice((1, 2, 2, 3), generator)):
        instrument = choice(CHORD_INSTRUMENTS, generator)
        held = instrument in ("pad", "strings")
        kinds = set(_PLAYING) if number == 0 else {"chorus", "solo"}
        kinds |= {kind for kind in _PLAYING if generator.random() < 0.5}
        comping = choice(("held", "halves") if held else tuple(COMPING), generator)
        parts.append(Part(instrument, comping, frozenset(kinds), _draw_timbre(generator)))
    solo = choice((LEAD, LEAD, "overdriven guitar", "guitar", "piano", "brass", "bells"), generator)
    return (*parts, Part(solo, "solo", frozenset({"solo"}), _draw_timbre(generator)))
