"""Tables of data sets in the docs: ``python docs/make/data_sets.py "real songs=/data/songs"``.

Measures all songs of data sets in MUSDB18's layout: levels, rests, overlap, spectra, and the scores
of oracles. Results are kept in ``docs/data_sets.json``, so data sets can be measured one at a time;
the tables of ``docs/demo_corpus.md`` follow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.markdown import markdown
from datamodules.tracks.index import Track, index_tracks
from datamodules.tracks.layouts import STEMS, subsets_of
from table_pages import DOCS, Rows, read_rows, with_table

SCRIPT = "docs/make/data_sets.py"
_ACTIVE_DB = -40.0  # of the mixture's level
_AUDIBLE_DB = -60.0  # of the loudest bin
_DOMINANT = 0.9
_SILENT_DB = -60.0  # of the mixture's level
_ORACLES = ("irm1", "ibm1")
Measures = dict[str, Any]
_Cell = Callable[[Mapping[str, Any]], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure data sets and write the tables; return the exit status: 0, or 2 for a mistake."""
    command = argparse.ArgumentParser(
        prog=f"python {SCRIPT}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "data sets to measure; without one, only format the tables"
    command.add_argument("data", nargs="*", metavar="NAME=ROOT", help=text)
    command.add_argument("--docs", type=Path, default=DOCS, help="folder of page and JSON file")
    options = command.parse_args(arguments)
    return command_line.run(lambda: _update(options.data, options.docs))


def _update(data: Sequence[str], docs: Path) -> int:
    page, file = docs / "demo_corpus.md", docs / "data_sets.json"
    with_table(page, SCRIPT, [])  # checks the markers before minutes of measuring
    roots = dict(_named(each) for each in data)
    rows = read_rows(file)
    for name, root in roots.items():
        rows[name] = measure(root)
        file.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    page.write_text(with_table(page, SCRIPT, tables(rows)))
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, equals, root = text.partition("=")
    if not (name and equals and root):
        raise DataError(f"{text}: is not NAME=ROOT, such as 'real songs=/data/songs'")
    return name, Path(root)


def measure(root: Path) -> Measures:
    """Measure all songs of a data set.

    Returns:
        Numbers of songs and minutes; for the rest, the mean over songs: ``active``, ``profile`` and
        ``usdr`` by source, ``dominance``. Levels by source have mean and standard deviation in dB.
        A source is left out where it is silent.
    """
    tracks = [
        track for subset in subsets_of(root) for track in index_tracks(root, subset, progress=False)
    ]
    if not tracks:
        raise DataError(f"{root}: has no songs; check the path")
    songs = [measure_song(track) for track in tracks]
    return {
        "songs": len(songs),
        "minutes": sum(track.seconds for track in tracks) / 60,
        "mixture_db": _spread([song["mixture_db"] for song in songs]),
        "level_db": _by_source(songs, "level_db", _spread),
        "active": _by_source(songs, "active", _mean),
        "profile": _by_source(songs, "profile", lambda found: np.mean(found, axis=0).tolist()),
        "dominance": _mean([song["dominance"] for song in songs]),
        "usdr": {
            estimate: _by_source([song["usdr"][estimate] for song in songs], None, _mean)
            for estimate in songs[0]["usdr"]
        },
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _spread(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation."""
    return [float(np.mean(values)), float(np.std(values))]


def _by_source(
    songs: Sequence[Mapping[str, Any]], key: str | None, combine: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """Source -> combination of its values in the songs in which it sounds."""
    found: dict[str, list[Any]] = {stem: [] for stem in STEMS}
    for song in songs:
        for stem, value in (song if key is None else song[key]).items():
            if np.isfinite(value).all():
                found[stem].append(value)
    return {stem: combine(values) for stem, values in found.items() if values}


def measure_song(track: Track) -> Measures:
    """Measure one song; sources that are silent have no values."""
    from lightning_modules.evaluation.bands import band_energies

    sources = track.read_stems(STEMS).astype(np.float64)  # (S, C, T)
    mixture = sources.sum(0)
    total_db = _level_db(mixture)
    level_db = {stem: _level_db(x) - total_db for stem, x in zip(STEMS, sources, strict=True)}
    level_db = {stem: level for stem, level in level_db.items() if level > _SILENT_DB}
    signals = {stem: sources[STEMS.index(stem)] for stem in level_db}
    rate = track.sample_rate
    profiles = {stem: band_energies(signal, rate) for stem, signal in signals.items()}
    return {
        "mixture_db": total_db,
        "level_db": level_db,
        "active": {
            stem: float(np.mean(_seconds_db(signal, rate) > total_db + _ACTIVE_DB))
            for stem, signal in signals.items()
        },
        "profile": {stem: (each / each.sum()).tolist() for stem, each in profiles.items()},
        "dominance": _dominance(sources),
        "usdr": _scores(sources, mixture),
    }


def _level_db(signal: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.mean(signal**2) + 1e-20))


def _seconds_db(signal: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Level of each whole second of a signal (C, T) in dB."""
    seconds = max(signal.shape[1] // sample_rate, 1)
    parts = np.array_split(signal[:, : seconds * sample_rate], seconds, axis=1)
    return np.array([_level_db(part) for part in parts])


def _dominance(sources: NDArray[np.float64]) -> float:
    """Share of audible bins in which one source has nine tenths of the sources' energy.

    Bins are those of a Hann window of 4096 samples with a hop of 2048, of the mean of the channels.
    """
    import torch

    from lightning_modules.layers.stft import STFT

    spectra = STFT(4096, 2048)(torch.from_numpy(sources.mean(1)))
    power = np.asarray(spectra.abs() ** 2)  # (S, F, N)
    total = power.sum(0)
    audible = total > 10 ** (_AUDIBLE_DB / 10) * total.max()
    return float(np.mean(power.max(0)[audible] > _DOMINANT * total[audible]))


def _scores(
    sources: NDArray[np.float64], mixture: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    """Estimate -> source -> uSDR; NaN for a silent source."""
    import torch

    from lightning_modules.evaluation.baselines import BEST_GAIN, best_gain
    from lightning_modules.evaluation.oracles import ORACLES
    from lightning_modules.evaluation.scores import usdr

    mixed, true = torch.from_numpy(mixture), torch.from_numpy(sources)
    estimates = {
        f"mixture/{len(sources)}": np.stack([mixture / len(sources)] * len(sources)),
        BEST_GAIN: np.stack([best_gain(source, mixture) * mixture for source in sources]),
        **{oracle: ORACLES[oracle](mixed, true).numpy() for oracle in _ORACLES},
    }
    return {
        name: dict(zip(STEMS, usdr(sources, estimate).tolist(), strict=True))
        for name, estimate in estimates.items()
    }


def tables(rows: Rows) -> list[str]:
    """Format all results as lines of Markdown: one column per data set, then octave profiles."""
    if not rows:
        return []
    cells: list[tuple[str, _Cell]] = [
        ("songs, minutes", lambda row: f"{row['songs']}, {row['minutes']:.0f}"),
        ("level of the mixture, dBFS", lambda row: _plus_minus(row["mixture_db"])),
        *((f"level of {stem}, dB", _level_cell(stem)) for stem in STEMS),
        ("mean deviation of these levels, dB", _spread_cell),
        *((f"active seconds, {stem}", _share_cell(stem)) for stem in STEMS),
        ("bins that one source dominates", lambda row: f"{row['dominance']:.0%}"),
        *(
            (f"uSDR of {estimate}, dB", _score_cell(estimate))
            for estimate in next(iter(rows.values()))["usdr"]
        ),
    ]
    lines = [["", *rows], *([label, *map(cell, rows.values())] for label, cell in cells)]
    return [*markdown(lines), "", *markdown(_profiles(rows))]


def _plus_minus(spread: Sequence[float]) -> str:
    return f"{spread[0]:.1f} ± {spread[1]:.1f}"


def _level_cell(stem: str) -> _Cell:
    return lambda row: _plus_minus(row["level_db"][stem])


def _spread_cell(row: Mapping[str, Any]) -> str:
    return f"{np.mean([spread for _, spread in row['level_db'].values()]):.1f}"


def _share_cell(stem: str) -> _Cell:
    return lambda row: f"{row['active'][stem]:.0%}"


def _score_cell(estimate: str) -> _Cell:
    return lambda row: f"{np.mean(list(row['usdr'][estimate].values())):.2f}"


def _profiles(rows: Rows) -> list[list[str]]:
    """Share of the energy in each octave by source and data set, in percent."""
    from lightning_modules.evaluation.bands import band_centres

    count = max(len(profile) for row in rows.values() for profile in row["profile"].values())
    octaves = [f"{centre / 1000:.3g} kHz" for centre in band_centres(44_100)[:count]]
    return [
        ["source", "data", *octaves],
        *(
            [stem, name, *(f"{100 * share:.0f}" for share in row["profile"][stem])]
            for stem in STEMS
            for name, row in rows.items()
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
