"""Seconds of four-source audio that a loader reads per second of processor time.

Task: batches of crops of four stereo 16-bit WAV stems, each from another track, with random gain
and channel swap. The processor time of all processes counts: this one, the workers and their
children. The files are in the page cache, each process has one torch thread, and batches are
discarded. The loaders are measured in alternation; values are medians over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from datamodules.benchmark import loaders, peers
from datamodules.benchmark.corpus import SAMPLE_RATE, Task, link_corpus, make_corpus, read_once
from datamodules.benchmark.measuring import Candidate, Result, Start, measure_all
from datamodules.errors import DataError
from datamodules.markdown import markdown
from datamodules.quiet import quiet

BASE = "soundfile"
FLOAT32_LIMIT, INT16_LIMIT = "limit-float32", "limit-int16"
_PACKAGES = ("torch", "numpy", "numba", "soundfile", "musdb", "openunmix", "demucs", "torchaudio")


class Row(NamedTuple):
    """A loader of the table.

    Attributes:
        prepare: Prepares it.
        what: Description.
        limit: Row of the upper limit that applies to it.
    """

    prepare: Callable[[Task], Start]
    what: str
    limit: str = FLOAT32_LIMIT


LIMITS = {
    FLOAT32_LIMIT: Row(
        partial(loaders.copy_limit, dtype=torch.float32),
        "limit: crops of the mapped files, copied and converted to float32",
    ),
    INT16_LIMIT: Row(
        partial(loaders.copy_limit, dtype=torch.int16),
        "limit of int16: plain copies of the crops",
        INT16_LIMIT,
    ),
}
ROWS = {
    BASE: Row(
        loaders.plain_soundfile, "ordinary DataLoader of soundfile: seek, read, gain, swap, stack"
    ),
    "stemlab": Row(loaders.stemlab, "Stemlab: float32, compiled"),
    "stemlab-torch": Row(
        partial(loaders.stemlab, compiled=False), "Stemlab: float32, without numba"
    ),
    "stemlab-int16": Row(
        partial(loaders.stemlab, int16_to_device=True),
        "Stemlab: int16; the device converts, applies gain and swap",
        INT16_LIMIT,
    ),
    "openunmix": Row(
        peers.openunmix_folders, "openunmix.data.FixedSourcesTrackFolderDataset, by soundfile"
    ),
    "openunmix-musdb": Row(peers.openunmix_musdb, "openunmix.data.MUSDBDataset"),
    "musdb": Row(peers.musdb_chunks, "musdb.DB: chunk_start, chunk_duration"),
    "demucs": Row(peers.demucs_wavset, "demucs.wav.Wavset and augment on the CPU, by soundfile"),
    "torchaudio": Row(
        peers.torchaudio_musdb_hq, "torchaudio.datasets.MUSDB_HQ, complete files, by soundfile"
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command line's arguments to a parser."""
    parser.add_argument("--root", type=Path, help="MUSDB18-HQ; by default noise is generated")
    parser.add_argument("--tracks", type=int, default=24, help="number of tracks (default 24)")
    parser.add_argument(
        "--track-seconds", type=float, default=60.0, help="length of a noise track (default 60)"
    )
    parser.add_argument("--segment-seconds", type=float, default=6.0, help="of a crop (default 6)")
    parser.add_argument("--batch-size", type=int, default=8, help="default 8")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2], help="worker processes (default 0 1 2)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="processor time of a run per process (default 1)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME",
        help=f"loaders to measure: {', '.join(ROWS)}",
    )  # fmt: skip


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the limits and the loaders.

    Args:
        options: Parsed arguments.

    Returns:
        Machine, settings and rows, JSON-serialisable.

    Raises:
        DataError: The data set has another layout or format.
    """
    # Without ``quiet``, each of Stemlab's rows would log its index.
    with quiet(threads=1), tempfile.TemporaryDirectory(prefix="stemlab-benchmark-") as name:
        root = (
            link_corpus(Path(name), options.root.expanduser(), options.tracks)
            if options.root
            else make_corpus(Path(name), options.tracks, options.track_seconds)
        )
        tracks = read_once(root)
        segment_samples = round(options.segment_seconds * SAMPLE_RATE)
        task = Task(root, tracks, segment_samples, options.batch_size)
        workers = {name: [0] for name in LIMITS} | dict.fromkeys(options.only, options.workers)
        candidates = [
            Candidate(name, partial((LIMITS | ROWS)[name].prepare, task), counts)
            for name, counts in workers.items()
        ]
        measured = measure_all(candidates, options.batch_size, options.seconds, options.repeats)
    return _report_of(measured, options, len(tracks))


def _report_of(
    measured: dict[str, Result], options: argparse.Namespace, tracks: int
) -> dict[str, Any]:
    """Compute throughputs and ratios by number of workers."""
    seconds = options.segment_seconds

    def throughput(name: str, workers: int) -> float | None:
        examples = measured[name].examples_per_cpu_second(workers) if name in measured else None
        return None if examples is None else examples * seconds

    def times(name: str, base: str, base_workers: int | None = None) -> dict[str, float]:
        found = {}
        for n in options.workers:
            value = throughput(name, n)
            reference = throughput(base, n if base_workers is None else base_workers)
            if value is not None and reference is not None:
                found[str(n)] = value / reference
        return found

    def row(name: str) -> dict[str, Any]:
        each = measured[name]
        counts = [0] if name in LIMITS else options.workers
        content: dict[str, Any] = {
            "what": (LIMITS | ROWS)[name].what,
            "fault": each.fault or None,
            "rounds": max(map(len, each.runs.values())),
            "audio_seconds_per_cpu_second": {
                str(n): value for n in counts if (value := throughput(name, n)) is not None
            },
        }
        if name not in LIMITS:
            content |= {
                "times_soundfile": times(name, BASE),
                "times_openunmix": times(name, "openunmix"),
                "share_of_limit": times(name, ROWS[name].limit, 0),
                "wall_two_workers_to_one": each.wall_ratio(2, 1),
            }
        return content

    return {
        "machine": _machine(),
        "settings": {
            "data": str(options.root or f"noise, {options.track_seconds:g} s per track"),
            "tracks": tracks,
            **{
                name: getattr(options, name)
                for name in ("segment_seconds", "batch_size", "workers", "seconds", "repeats")
            },
            "torch_threads_per_process": 1,
        },
        "rows": {name: row(name) for name in measured},
    }


def table(report: dict[str, Any]) -> str:
    """Format the result of ``compare``: machine, settings and a Markdown table."""
    machine, settings = report["machine"], report["settings"]
    counts = [str(n) for n in settings["workers"]]
    slashed = "/".join(counts)
    ratios = [f"{ratio} ({slashed})" for ratio in ("x soundfile", "x openunmix", "of the limit")]
    lines = [["loader", *(f"{n} workers" for n in counts), *ratios, "wall 2:1", "rounds", "what"]]
    for name, row in report["rows"].items():
        throughputs = row["audio_seconds_per_cpu_second"]
        wall = row.get("wall_two_workers_to_one")
        lines.append(
            [
                name,
                *(_joined(throughputs, [n], "{:.0f}".format) for n in counts),
                _joined(row.get("times_soundfile"), counts, _ratio),
                _joined(row.get("times_openunmix"), counts, _ratio),
                _joined(row.get("share_of_limit"), counts, "{:.0%}".format),
                f"{wall:.2f}" if wall is not None else "-",
                str(row["rounds"]),
                f"not measured: {row['fault']}" if row["fault"] else row["what"],
            ]
        )
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return "\n".join(
        [
            "Seconds of four-source audio per second of processor time, all processes together.",
            f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, {versions}.",
            f"Data: {settings['data']}, {settings['tracks']} tracks; crops of "
            f"{settings['segment_seconds']:g} s, batch {settings['batch_size']}; median of up to "
            f"{settings['repeats']} rounds of {settings['seconds']:g} s per process; one "
            "torch thread each.",
            "",
            *markdown(lines),
        ]
    )


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def _joined(
    values: dict[str, float] | None, counts: Sequence[str], form: Callable[[float], str]
) -> str:
    if not values:
        return "-"
    return " / ".join(form(values[n]) if n in values else "-" for n in counts)


def _machine() -> dict[str, Any]:
    packages = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(models, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
    }


def check(options: argparse.Namespace) -> None:
    """Raise a DataError if an argument is out of range."""
    lowest = {"tracks": 2, "batch_size": 1, "repeats": 1}
    for name in (*lowest, "track_seconds", "segment_seconds", "seconds"):
        value = getattr(options, name)
        valid = value >= lowest[name] if name in lowest else 0 < value < float("inf")
        expected = f"{lowest[name]} or more" if name in lowest else "a length above 0"
        if not valid:
            raise DataError(f"--{name.replace('_', '-')} is {value}: give {expected}")
    if min(options.workers) < 0 or len(set(options.workers)) < len(options.workers):
        raise DataError(
            f"--workers is {' '.join(map(str, options.workers))}: give each number once, 0 or more"
        )
    if options.root is None and options.track_seconds < options.segment_seconds:
        raise DataError(
            f"--track-seconds {options.track_seconds:g} is shorter than a crop of "
            f"{options.segment_seconds:g} s: give a longer one"
        )
