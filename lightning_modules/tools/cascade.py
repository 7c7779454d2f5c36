"""What a denoiser is worth to a separator: ``python -m lightning_modules.tools.cascade``.

Li, "Deep denoising autoencoder for music source separation", Table 1, for any pair of checkpoints:
the separator is given the music as it is (origin), degraded (noisy), and degraded and denoised,
and is scored each time. Further the music itself, noisy and denoised, and how loud it is in each
octave, since the paper finds that its network takes high frequencies away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.audio import Audio
from datamodules.tracks.layouts import STEMS, SUBSETS
from lightning_modules.base.description import check_is_there
from lightning_modules.evaluation.bands import band_centres, band_energies
from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scores import METRICS, TrackScores, aggregate, score_track
from lightning_modules.runtime.process_pool import ScoringPool

if TYPE_CHECKING:
    from datamodules.degradation import DegradedMUSDBDataModule
    from datamodules.tracks.index import Track
    from lightning_modules.architectures.cascade import Cascade

INPUTS = ("origin", "noisy", "denoised")
MUSIC = "music"

# The paper's excerpts: samples 1,000,000 to 2,000,000 of the first 50 tracks.
_PAPER_TRACKS, _PAPER_START, _PAPER_SAMPLES = 50, 1_000_000, 1_000_000
_PICTURE_SECONDS = 10
_SILENT = 1e-20


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, write scores and pictures, print the tables.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    options = _parser().parse_args(arguments)
    return command_line.run(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    for path in (options.denoiser, options.separator):
        check_is_there(path)
    command_line.check_folder(options.output, "-o")
    if options.output.exists() and not options.force and any(options.output.iterdir()):
        raise FileExistsError(
            f"{options.output} is not empty; give another folder by -o, or --force to write over "
            "what is there"
        )
    print(_compare(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.tools.cascade")
    add = parser.add_argument
    add("--denoiser", required=True, type=Path, help="checkpoint of a model with one source")
    add("--separator", required=True, type=Path, help="checkpoint of any separator")
    add("-o", "--output", required=True, type=Path, help="folder for scores and pictures")
    add("--root", help="data set; by default MUSDB_PATH, else the embedded corpus")
    add("--subset", choices=SUBSETS, help="by default test; train for the paper's excerpts")
    add(
        "--paper-excerpts",
        action="store_true",
        help="samples 1,000,000 to 2,000,000 of the first 50 tracks, as in the paper",
    )
    add("--impulse-responses", metavar="FOLDER", help="by default computed rooms")
    add("--noise", metavar="FOLDER", help="by default coloured noise")
    add("--lowest-db", type=float, default=0.0, help="lowest signal-to-noise ratio (default 0)")
    add("--highest-db", type=float, default=20.0, help="highest (default 20)")
    add("--seed", type=int, default=0, help="of the degradations (default 0)")
    add("--processes", type=command_line.count(), default=1, help="that score (default 1)")
    add("--device", help="cpu, cuda, ...; by default CUDA where there is one")
    add("--force", action="store_true", help="write over what is there")
    return parser


def _compare(options: argparse.Namespace) -> str:
    from tqdm import tqdm

    from lightning_modules.architectures.cascade import Cascade
    from lightning_modules.runtime.device import usable_device

    cascade = Cascade(options.denoiser, options.separator, usable_device(options.device))
    data = _data(options, cascade)
    subset = options.subset or ("train" if options.paper_excerpts else "test")
    tracks = _tracks(data, subset)
    place: tuple[int, int | None] = (0, None)
    if options.paper_excerpts:
        tracks = tracks[:_PAPER_TRACKS]
        place = _excerpt(tracks)

    scores: dict[str, list[Future[TrackScores]]] = {name: [] for name in _folders()}
    energies: list[dict[str, Any]] = []
    with ScoringPool(options.processes) as pool:
        for track in tqdm(tracks, "separating", unit="track"):
            music, estimates, references = _heard(cascade, data, track, *place)
            for name, estimate in estimates.items():
                scores[name].append(
                    pool.submit(
                        score_track,
                        track.name,
                        references if name in INPUTS else music["origin"][None],
                        estimate,
                        cascade.sample_rate,
                        cascade.sources if name in INPUTS else [MUSIC],
                    )
                )
            energies.append(
                {name: band_energies(music[name], cascade.sample_rate) for name in INPUTS}
            )
            _draw(music, cascade.sample_rate, track.name, options.output / "pictures")
        found = {name: [future.result() for future in each] for name, each in scores.items()}
    for name, each in found.items():
        for one in each:
            write_scores(one, options.output / name / subset / f"{one.name}.json")
    sums = {name: np.sum([each[name] for each in energies], axis=0) for name in INPUTS}
    what = f"{len(tracks)} {subset} track{'s' * (len(tracks) != 1)}" + (
        ", the paper's excerpts" if options.paper_excerpts else ""
    )
    return "\n\n".join([_table(found, what), _levels(sums, band_centres(cascade.sample_rate))])


def _folders() -> tuple[str, ...]:
    """Names of what is scored: the sources of each input, then the music itself."""
    return (*INPUTS, *(f"{MUSIC}_{name}" for name in INPUTS[1:]))


# ----------------------------------------------------------------------- tracks


def _data(options: argparse.Namespace, cascade: Cascade) -> DegradedMUSDBDataModule:
    """The data as the separator hears them, degraded as the options tell."""
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
    """Tell the stems of a separator's sources by their names, as checkpoints do not.

    Args:
        sources: Names of stems; ``accompaniment`` is all stems but the vocals.

    Returns:
        Source name -> names of its stems.

    Raises:
        DataError: A name is none of these.
    """
    known = {stem: [stem] for stem in STEMS} | {"accompaniment": list(STEMS[1:])}
    if unknown := [name for name in sources if name not in known]:
        raise DataError(
            f"the separator has the source {unknown[0]!r}, of which no stems are known; expected "
            f"are {', '.join(known)}"
        )
    return {name: known[name] for name in sources}


def _tracks(data: DegradedMUSDBDataModule, subset: str) -> list[Track]:
    data.prepare_data()
    if subset == "test":
        data.setup("test")
        return data.test_tracks
    data.setup("validate")
    return sorted([*data.train_tracks, *data.valid_tracks], key=lambda track: track.name)


def _excerpt(tracks: Sequence[Track]) -> tuple[int, int]:
    """First sample and number of samples of the paper's excerpts.

    Raises:
        DataError: A track is too short.
    """
    needed = _PAPER_START + _PAPER_SAMPLES
    short = [track for track in tracks if track.samples < needed]
    if short:
        first = short[0]
        raise DataError(
            f"{first.name}: has {first.samples:,} samples, the paper's excerpt ends at {needed:,}"
            f" ({len(short)} of {len(tracks)} tracks are too short); leave --paper-excerpts out"
        )
    return _PAPER_START, _PAPER_SAMPLES


def _heard(
    cascade: Cascade,
    data: DegradedMUSDBDataModule,
    track: Track,
    start: int,
    samples: int | None,
) -> tuple[dict[str, Audio], dict[str, Audio], Audio]:
    """What goes into the separator (C, T), what is scored (S, C, T), and the sources (S, C, T)."""
    import torch

    from datamodules.batches import Batch

    mixture, targets = data.grouping.read(track, start, samples)
    # The clean mixture is lowered with the sources.
    clean = torch.cat([targets, mixture[None]])
    noisy, clean = data.degrader.fixed(Batch(mixture, clean), track.name, start)
    rate = cascade.sample_rate
    inputs = {"origin": clean[-1], "noisy": noisy}
    inputs["denoised"] = cascade.denoiser.separate(noisy, rate)[0].cpu()
    estimates = {name: cascade.separator.separate(inputs[name]) for name in INPUTS[:2]}
    estimates["denoised"] = cascade.separate(noisy)
    estimates |= {f"{MUSIC}_{name}": inputs[name][None] for name in INPUTS[1:]}
    return (
        {name: waveform.numpy() for name, waveform in inputs.items()},
        {name: waveform.cpu().numpy() for name, waveform in estimates.items()},
        clean[:-1].numpy(),
    )


# ----------------------------------------------------------------------- results


def _draw(music: Mapping[str, Audio], sample_rate: int, name: str, folder: Path) -> None:
    from lightning_modules.plots import sound, style

    length = _PICTURE_SECONDS * sample_rate
    start = max(0, (music["origin"].shape[-1] - length) // 2)
    clean, noisy, denoised = (music[each][:, start : start + length] for each in INPUTS)
    figure = sound.denoising_figure(clean, noisy, denoised, sample_rate, name)
    style.save(figure, folder / f"{name}.png")


def _table(scores: Mapping[str, Sequence[TrackScores]], what: str) -> str:
    """Rows origin, noisy, denoised for each source, and their mean; then the music itself."""
    summaries = {name: aggregate(tracks) for name, tracks in scores.items()}
    separated = summaries["origin"]
    lines = [f"{what}; dB; {separated.rule.split(', uSDR')[0]}", _line("", METRICS)]
    for source in separated.scores:
        rows = {name: summaries[name].scores[source] for name in INPUTS}
        lines += [source, *(_row(name, figures) for name, figures in rows.items())]
    if len(separated.scores) > 1:
        means = {
            name: {metric: summaries[name].mean(metric) for metric in METRICS} for name in INPUTS
        }
        lines += ["mean over sources", *(_row(name, figures) for name, figures in means.items())]
    lines.append("the music itself, not separated")
    lines += [_row(name, summaries[f"{MUSIC}_{name}"].scores[MUSIC]) for name in INPUTS[1:]]
    notes = {note for summary in summaries.values() for note in summary.notes}
    return "\n".join(lines + [f"note: {note}" for note in sorted(notes)])


def _row(name: str, figures: Mapping[str, float]) -> str:
    cells = [figures[metric] for metric in METRICS]
    return _line(f"  {name}", ["-" if np.isnan(cell) else f"{cell:.2f}" for cell in cells])


def _line(label: str, cells: Sequence[str], width: int = 8) -> str:
    return label.ljust(12) + "".join(cell.rjust(width) for cell in cells)


def _levels(sums: Mapping[str, Any], centres: Any) -> str:
    """Level of each octave relative to that of the clean music, dB."""
    lines = ["level by octave re the clean music, dB"]
    lines.append(_line("  Hz", [f"{centre:.0f}" for centre in centres]))
    for name in INPUTS[1:]:
        levels = 10 * np.log10(
            np.maximum(sums[name], _SILENT) / np.maximum(sums["origin"], _SILENT)
        )
        lines.append(_line(f"  {name}", [f"{level:.1f}" for level in levels]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
