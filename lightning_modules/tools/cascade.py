"""Measure whether a denoiser helps a separator: ``python -m lightning_modules.tools.cascade``.

Li, "Deep denoising autoencoder for music source separation", Table 1, for any pair of checkpoints:
scores of the separator on the original music (origin), on degraded music (noisy), and on degraded
music after the denoiser (denoised). Also scores the noisy and denoised music itself, and prints its
level per octave, because the paper finds that its network attenuates high frequencies.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.audio import Audio
from datamodules.tables import format_table
from datamodules.tracks.layouts import STEMS, SUBSETS
from lightning_modules.evaluation.bands import band_centres, band_energies
from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scorer import reason
from lightning_modules.evaluation.scores import METRICS, TrackScores, aggregate, score_track
from lightning_modules.interop.published import check_model
from lightning_modules.runtime.process_pool import PoolTask, ScoringPool

if TYPE_CHECKING:
    from datamodules.degradation import DegradedMUSDBDataModule
    from datamodules.tracks.index import Track
    from lightning_modules.architectures.cascade import Cascade

INPUTS = ("origin", "noisy", "denoised")
MUSIC = "music"

# The paper's excerpts
PAPER_TRACKS, PAPER_START, PAPER_SAMPLES = 50, 1_000_000, 1_000_000
_PICTURE_SECONDS = 10
_SILENT = 1e-20


def main(arguments: Sequence[str] | None = None) -> int:
    """Write scores and plots, print tables; return the exit status.

    It is 0, 1 if some tracks could not be scored, or 2 after an error.
    """
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    for path in (options.denoiser, options.separator):
        check_model(path)
    command_line.check_folder(options.output, "-o")
    if options.output.exists() and not options.force and any(options.output.iterdir()):
        raise FileExistsError(
            f"{options.output} is not empty; give another folder with -o, or --force to overwrite "
            "its files"
        )
    tables, left_out = _compare(options)
    if tables:
        print(tables)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    if not tables:
        return 2
    return 1 if left_out else 0


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.cascade")
    add = parser.add_argument
    add("--denoiser", required=True, type=Path, help="checkpoint of a model with one source")
    add("--separator", required=True, type=Path, help="checkpoint of any separator")
    add("-o", "--output", required=True, type=Path, help="folder for scores and plots")
    add("--root", help="data set (default: MUSDB_PATH, otherwise the demo corpus)")
    add("--subset", choices=SUBSETS, help="default test; train for the paper's excerpts")
    excerpts = "samples 1,000,000 to 2,000,000 of the first 50 tracks, as in the paper"
    add("--paper-excerpts", action="store_true", help=excerpts)
    add("--impulse-responses", metavar="FOLDER", help="recordings (default: simulated rooms)")
    add("--noise", metavar="FOLDER", help="recordings (default: coloured noise)")
    add("--lowest-db", type=float, default=0.0, help="lowest signal-to-noise ratio (default 0)")
    add("--highest-db", type=float, default=20.0, help="highest (default 20)")
    add("--seed", type=int, default=0, help="seed of the degradations (default 0)")
    add("--processes", type=command_line.count(), default=1, help="for scoring (default 1)")
    add("--device", help="cpu, cuda, ... (default: CUDA if available)")
    add("--force", action="store_true", help="overwrite existing files")
    return parser


def _compare(options: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """Return the tables, empty if no track could be scored, and why tracks were left out."""
    command_line.announce("Loading the models...")
    from datamodules.progress import Bar
    from lightning_modules.architectures.cascade import Cascade
    from lightning_modules.runtime.device import usable_device

    cascade = Cascade(options.denoiser, options.separator, usable_device(options.device))
    data = _data_module(options, cascade)
    subset = options.subset or ("train" if options.paper_excerpts else "test")
    tracks = _tracks(data, subset)
    start = 0
    samples: int | None = None  # to the end
    if options.paper_excerpts:
        tracks, start, samples = tracks[:PAPER_TRACKS], PAPER_START, PAPER_SAMPLES
        _check_lengths(tracks)

    tasks: dict[str, dict[str, PoolTask[TrackScores]]] = {}
    energies: dict[str, dict[str, Any]] = {}
    with ScoringPool(options.processes) as pool:
        for track in Bar(tracks, "separating", unit="track"):
            rate = track.sample_rate
            music, estimates, references = _separate(cascade, data, track, start, samples)
            for name, estimate in estimates.items():
                truth, sources = references, cascade.sources
                if name not in INPUTS:
                    truth, sources = music["origin"][None], [MUSIC]
                task = PoolTask(pool, score_track, track.name, truth, estimate, rate, sources)
                tasks.setdefault(track.name, {})[name] = task
            energies[track.name] = {name: band_energies(music[name], rate) for name in INPUTS}
            _plot(music, rate, track.name, options.output / "pictures")
        scores: dict[str, list[TrackScores]] = {}
        left_out: dict[str, str] = {}
        for track_name, of_track in tasks.items():
            try:
                done = {name: task.result() for name, task in of_track.items()}
            except Exception as error:
                left_out[track_name] = reason(error)
                del energies[track_name]
                continue
            for name, one in done.items():
                scores.setdefault(name, []).append(one)
                write_scores(one, options.output / name / subset / f"{one.name}.json")
    if not scores:
        return "", left_out
    rates = [track.sample_rate for track in tracks if track.name in energies]
    centres = band_centres(min(rates))  # of higher rates, the lowest of their bands
    sums = {
        name: np.sum([each[name][: len(centres)] for each in energies.values()], axis=0)
        for name in INPUTS
    }
    title = f"{len(energies)} {subset} track{'s' * (len(energies) != 1)}"
    title += ", the paper's excerpts" * options.paper_excerpts
    return f"{_score_table(scores, title)}\n\n{_level_table(sums, centres)}", left_out


def _data_module(options: argparse.Namespace, cascade: Cascade) -> DegradedMUSDBDataModule:
    from datamodules.augmentations.noise import ColouredNoise, RecordedNoise
    from datamodules.augmentations.rooms import RecordedRoom, ShoeboxRoom
    from datamodules.degradation import DegradedMUSDBDataModule

    responses, recordings = options.impulse_responses, options.noise
    room = RecordedRoom(responses) if responses else ShoeboxRoom()
    ratios = options.lowest_db, options.highest_db
    noise = RecordedNoise(recordings, *ratios, 1.0) if recordings else ColouredNoise(*ratios)
    return DegradedMUSDBDataModule(
        [room, noise],
        root=options.root,
        sources=stems_of(cascade.sources),
        sample_rate=cascade.sample_rate,
        audio_channels=cascade.audio_channels,
        seed=options.seed,
    )


def stems_of(sources: Sequence[str]) -> dict[str, list[str]]:
    """Map sources to stems by name, because checkpoints do not store the stems of a source.

    ``accompaniment`` consists of all stems except the vocals. Raises DataError for unknown names.
    """
    known = {stem: [stem] for stem in STEMS} | {"accompaniment": list(STEMS[1:])}
    if unknown := [name for name in sources if name not in known]:
        raise DataError(
            f"the separator has the source {unknown[0]!r}, whose stems are unknown; expected "
            f"{', '.join(known)}"
        )
    return {name: known[name] for name in sources}


def _tracks(data: DegradedMUSDBDataModule, subset: str) -> list[Track]:
    data.prepare_data()
    if subset == "test":
        data.setup("test")
        return data.test_tracks
    train, valid = data.roots.fit_tracks(progress=True)
    return sorted([*chain(*train), *valid], key=lambda track: track.name)


def _check_lengths(tracks: Sequence[Track]) -> None:
    needed = PAPER_START + PAPER_SAMPLES
    short = [track for track in tracks if track.samples < needed]
    if short:
        raise DataError(
            f"{short[0].name}: has {short[0].samples:,} samples, the paper's excerpt ends at "
            f"{needed:,} ({len(short)} of {len(tracks)} tracks are too short); leave "
            "--paper-excerpts out"
        )


def _separate(
    cascade: Cascade,
    data: DegradedMUSDBDataModule,
    track: Track,
    start: int,
    samples: int | None,
) -> tuple[dict[str, Audio], dict[str, Audio], Audio]:
    """Return the inputs of the separator (C, T), all estimates (S, C, T), the sources (S, C, T)."""
    import torch

    from datamodules.batches import Batch

    mixture, targets = data.grouping.read(track, start, samples)
    # The clean mixture must get the same gain as the sources.
    clean = torch.cat([targets, mixture[None]])
    rate = track.sample_rate
    noisy, clean = data.degrader.fixed(Batch(mixture, clean), track.name, start, rate)
    inputs = {"origin": clean[-1], "noisy": noisy}
    inputs["denoised"] = cascade.denoiser.separate(noisy, rate)[0].cpu()
    estimates = {name: cascade.separator.separate(inputs[name], rate) for name in INPUTS[:2]}
    estimates["denoised"] = cascade.separate(noisy, rate)
    estimates |= {f"{MUSIC}_{name}": inputs[name][None] for name in INPUTS[1:]}
    return (
        {name: waveform.numpy() for name, waveform in inputs.items()},
        {name: waveform.cpu().numpy() for name, waveform in estimates.items()},
        clean[:-1].numpy(),
    )


# ----------------------------------------------------------------------- results


def _plot(music: Mapping[str, Audio], sample_rate: int, name: str, folder: Path) -> None:
    from lightning_modules.plots import sound, style

    length = _PICTURE_SECONDS * sample_rate
    start = max(0, (music["origin"].shape[-1] - length) // 2)
    clean, noisy, denoised = (music[each][:, start : start + length] for each in INPUTS)
    figure = sound.denoising_figure(clean, noisy, denoised, sample_rate, name)
    style.save(figure, folder / f"{name}.png")


def _score_table(scores: Mapping[str, Sequence[TrackScores]], title: str) -> str:
    """Format the scores of each source, their mean, and those of the music itself."""
    summaries = {name: aggregate(tracks) for name, tracks in scores.items()}
    separated = summaries["origin"]
    rows: list[list[str] | None] = []

    def add(label: str, values: Mapping[str, Mapping[str, float]]) -> None:
        if rows:
            rows.append(None)
        for number, (name, row) in enumerate(values.items()):
            cells = ["-" if np.isnan(row[metric]) else f"{row[metric]:.2f}" for metric in METRICS]
            rows.append(["" if number else label, name, *cells])

    for source in separated.scores:
        add(source, {name: summaries[name].scores[source] for name in INPUTS})
    if len(separated.scores) > 1:
        mean = {name: summaries[name].mean for name in INPUTS}
        add("mean of sources", {name: {m: mean[name](m) for m in METRICS} for name in INPUTS})
    add("music itself", {name: summaries[f"{MUSIC}_{name}"].scores[MUSIC] for name in INPUTS[1:]})
    notes = sorted({note for summary in summaries.values() for note in summary.notes})
    heading = f"{title}; dB; {separated.rule.split(', uSDR')[0]}"
    table = format_table(["", "input", *METRICS], rows, labels=2)
    return "\n".join([heading, table, *(f"note: {note}" for note in notes)])


def _level_table(energies: Mapping[str, Any], centres: Any) -> str:
    rows = []
    for name in INPUTS[1:]:
        ratios = np.maximum(energies[name], _SILENT) / np.maximum(energies["origin"], _SILENT)
        rows.append([name, *(f"{level:.1f}" for level in 10 * np.log10(ratios))])
    header = ["Hz", *(f"{centre:.0f}" for centre in centres)]
    return "level per octave relative to the clean music, dB\n" + format_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
