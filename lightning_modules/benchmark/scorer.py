"""Cost of BSS Eval: museval and this project's engine on the same music, one thread each.

Four stereo sources, songs concatenated to the requested length; estimates by an ideal ratio mask of
their mixture, at 16 bits as the songs are; frames of one second. Each engine runs in its own
process. Reported are processor time, which other work on the machine hardly changes, and memory
beyond that before the first run. The floor is the change of museval's own scores when all signals
are scaled by 0.7 or the sources are reordered: engines that differ by less than 20 floors agree to
museval's precision.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.demo.corpus import demo_corpus
from datamodules.errors import DataError
from datamodules.markdown import markdown
from datamodules.tracks.index import index_tracks
from datamodules.tracks.layouts import STEMS
from lightning_modules.runtime.memory import current_memory, peak_memory
from lightning_modules.runtime.process_pool import ScoringPool

Signals = NDArray[np.float64]

MUSEVAL = "museval.metrics"
OURS = "lightning_modules.evaluation.bss_eval.engine"
_EQUAL_DB = 1e-6
_FLOORS = 20
_HIGHEST_DB = 100.0  # above, scores are rounding errors of zero


class Run(NamedTuple):
    """Cost and scores of an engine.

    Attributes:
        seconds: Processor time, median of the runs.
        extra_bytes: Peak memory beyond that before the first run.
        scores: SDR, ISR, SIR and SAR in dB, shape (4, sources, frames).
    """

    seconds: float
    extra_bytes: int
    scores: Signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[30.0, 60.0],
        help="lengths of music (default 30 60). museval takes minutes and gigabytes for 180",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="MUSDB18-HQ; by default the demo corpus")
    parser.add_argument("--repeats", type=int, default=3, help="runs of our engine (default 3)")


def check(options: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        DataError: A number is not positive and finite.
    """
    for seconds in options.seconds:
        if not 0 < seconds < math.inf:
            raise DataError(f"--seconds has {seconds:g}: give lengths above 0")
    if options.repeats < 1:
        raise DataError(f"--repeats is {options.repeats}: give 1 or more")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both engines at each length; returns settings and rows in JSON's types.

    Raises:
        DataError: The data set cannot be used, or has too little music.
    """
    rows = []
    jobs = [(MUSEVAL, 1, change) for change in ("none", "scaled", "reversed")]
    jobs.append((OURS, options.repeats, "none"))
    with tempfile.TemporaryDirectory(prefix="stemlab-benchmark-") as name:
        progress = tqdm(total=len(jobs) * len(options.seconds), disable=None, leave=False)
        for seconds in options.seconds:
            path = Path(name) / "signals.npy"
            rate = write_signals(path, seconds, options.root)

            runs = []
            for engine, repeats, change in jobs:
                progress.set_description(f"{seconds:g} s, {engine}, {change}")
                with ScoringPool(1) as pool:
                    runs.append(pool.submit(measure, engine, path, rate, repeats, change).result())
                progress.update()
            theirs, *changed, ours = runs
            floor = max(max_difference(theirs.scores, run.scores) for run in changed)
            row = {
                "audio_seconds": seconds,
                "museval_seconds": theirs.seconds,
                "seconds": ours.seconds,
                "ratio": theirs.seconds / ours.seconds,
                "museval_extra_mib": theirs.extra_bytes / 2**20,
                "extra_mib": ours.extra_bytes / 2**20,
                "difference_db": max_difference(theirs.scores, ours.scores),
                "museval_floor_db": floor,
            }
            row["equal"] = row["difference_db"] < max(_EQUAL_DB, _FLOORS * floor)
            rows.append(row)
    data = str(options.root or "demo corpus")
    packages = {name: importlib.metadata.version(name) for name in ("museval", "numpy")}
    settings = {"data": data, "repeats": options.repeats, "threads": 1}
    return {"settings": settings, "packages": packages, "rows": rows}


def write_signals(path: Path, seconds: float, root: Path | None) -> int:
    """Write references and estimates, float64, shape (2, S, T, C), as .npy; returns the rate, Hz.

    Raises:
        DataError: The data set cannot be used, or has too little music.
    """
    import torch  # not in the processes that measure

    from lightning_modules.evaluation.oracles import ideal_ratio_mask

    references, rate = _music(seconds, root)
    sources = torch.from_numpy(references)
    estimates = ideal_ratio_mask(sources.sum(0), sources, alpha=1).numpy()
    signals = np.stack([references, np.round(estimates * 2**15) / 2**15])
    np.save(path, np.ascontiguousarray(signals.transpose(0, 1, 3, 2)))
    return rate


def _music(seconds: float, root: Path | None) -> tuple[Signals, int]:
    """Stems (S, C, T) of concatenated songs, none of them silent, and their sample rate."""
    parts: list[NDArray[np.float32]] = []
    for track in index_tracks(root or demo_corpus(), "train", progress=False):
        if not parts:
            rate, channels = track.sample_rate, track.channels
        if (track.sample_rate, track.channels) != (rate, channels):
            continue
        parts.append(track.read_stems(STEMS, start=track.samples // 3))  # skips the intro
        music = np.concatenate(parts, axis=2)[..., : round(seconds * rate)]
        if music.shape[2] == round(seconds * rate):
            if music.sum(axis=1).any(axis=1).all():
                return music.astype(np.float64), rate
            del parts[0]
    raise DataError(
        f"--seconds {seconds:g}: the training songs have no {seconds:g} s of music with all of "
        f"{', '.join(STEMS)}; give a smaller number, or another --root"
    )


def measure(engine: str, path: Path, rate: int, repeats: int, change: str) -> Run:
    """Score a file, in a process that does nothing else.

    Args:
        engine: Module that has ``bss_eval``.
        path: File of ``write_signals``.
        rate: Sample rate, Hz; also the frame length in samples.
        repeats: Number of runs.
        change: Change of the signals: ``none``, ``scaled`` or ``reversed`` (order of sources).

    Returns:
        Cost, and scores in the file's order of sources.
    """
    signals = np.load(path)
    if change == "scaled":
        signals *= 0.7
    order = slice(None, None, -1 if change == "reversed" else 1)
    references, estimates = np.ascontiguousarray(signals[:, order])
    bss_eval = importlib.import_module(engine).bss_eval
    before, times = current_memory(), []
    for _ in range(repeats):
        started = time.process_time()
        results = bss_eval(references, estimates, window=rate, hop=rate)
        times.append(time.process_time() - started)
        extra = peak_memory() - before
    return Run(statistics.median(times), extra, np.stack(results[:4])[:, order])


def max_difference(expected: Signals, found: Signals) -> float:
    """Largest difference of two arrays of scores, dB; infinity if their NaN differ.

    Scores above 100 dB count as 100.
    """
    known = ~np.isnan(expected)
    if not np.array_equal(known, ~np.isnan(found)):
        return math.inf
    change = np.minimum(expected, _HIGHEST_DB) - np.minimum(found, _HIGHEST_DB)
    return float(np.abs(change[known]).max(initial=0))


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as a Markdown table."""
    settings, packages = report["settings"], report["packages"]
    headings = "music, museval, ours, ratio, its memory, ours, difference, floor, verdict"
    lines = [headings.split(", ")]
    lines += [
        [
            f"{row['audio_seconds']:g} s",
            f"{row['museval_seconds']:.1f} s",
            f"{row['seconds']:.2f} s",
            f"{row['ratio']:.0f} x",
            f"{row['museval_extra_mib']:.0f} MiB",
            f"{row['extra_mib']:.0f} MiB",
            f"{row['difference_db']:.0e} dB",
            f"{row['museval_floor_db']:.0e} dB",
            "equal" if row["equal"] else "DIFFERS",
        ]
        for row in report["rows"]
    ]
    head = (
        "BSS Eval v4 of four sources, one thread, processor seconds, memory beyond that\n"
        f"before the first run. museval {packages['museval']}, NumPy {packages['numpy']}; "
        f"{settings['data']}; median of {settings['repeats']} runs of ours, one of museval."
    )
    return "\n".join([head, "", *markdown(lines)])
