"""Separate songs: ``python -m lightning_modules.tools.separate song.wav --checkpoint X -o out``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from datamodules.audio import DataError, inspect
from datamodules.songs import find_songs, song_name
from lightning_modules.description import check_is_there

if TYPE_CHECKING:
    from lightning_modules.postprocessing import PostProcessing


def main(arguments: Sequence[str] | None = None) -> int:
    """Separate the files that the command line names.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.tools.separate")
    parser.add_argument("inputs", nargs="+", type=Path, help="audio files, or folders of them")
    parser.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint of `fit`")
    parser.add_argument("--denoiser", type=Path, help="checkpoint of a denoiser to go in front")
    parser.add_argument("-o", "--output", type=Path, default=Path("separated"), help="folder")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; by default the fastest")
    parser.add_argument(
        "--overlap", type=float, default=None, help="part of a chunk shared with the next, 0 to 0.5"
    )
    parser.add_argument(
        "--shifts",
        type=int,
        default=None,
        help="random delays averaged over, at as many times the cost",
    )
    parser.add_argument(
        "--postprocessing",
        default=None,
        metavar="SETTINGS",
        help="as in a config, such as '{softness: 4}'; '{}' for none; by default the model's",
    )
    options = parser.parse_args(arguments)
    try:
        separate_files(
            find_songs(options.inputs),  # a bad file is told before the model is loaded
            options.checkpoint,
            options.output,
            force=options.force,
            device=options.device,
            overlap=options.overlap,
            shifts=options.shifts,
            denoiser=options.denoiser,
            postprocessing=_settings(options.postprocessing),
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def separate_files(
    songs: Sequence[Path],
    checkpoint: Path,
    output: Path,
    *,
    force: bool = False,
    device: str | None = None,
    overlap: float | None = None,
    shifts: int | None = None,
    denoiser: Path | None = None,
    postprocessing: PostProcessing | None = None,
) -> list[Path]:
    """Separate files, block by block, so that their length does not matter.

    Args:
        songs: Audio files.
        checkpoint: Checkpoint of the separator.
        output: Folder; each song gets one of its own in it.
        force: Overwrite what is there.
        device: Torch device; by default CUDA where there is one.
        overlap: Part of a chunk that is cross-faded with the next; by default the model's.
        shifts: Random delays of the mixture to average over; by default the model's.
        denoiser: Checkpoint of a denoiser whose estimate is separated in place of the song.
        postprocessing: What is done to the estimates; by default what the model's settings say.

    Returns:
        Folder of each song's stems.

    Raises:
        FileExistsError: Stems are there and ``force`` is not given.
    """
    for path in (checkpoint, denoiser):
        if path is not None:
            check_is_there(path)
    import torch
    from tqdm import tqdm

    from lightning_modules.cascade import Cascade
    from lightning_modules.checkpoint import load_separator
    from lightning_modules.stem_files import StemFiles, separate_file

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"device {device!r} cannot be used here: {reason}; try cpu") from error
    model = Cascade(denoiser, checkpoint, place) if denoiser else load_separator(checkpoint, place)
    folders = [output / song_name(song) for song in songs]
    for folder in folders if not force else []:  # all of them before the first is separated
        StemFiles.check_free(folder, model.sources)
    for song, folder in zip(songs, folders, strict=True):
        info = inspect(song)
        with tqdm(
            total=info.samples,
            desc=song_name(song),
            unit="s",
            unit_scale=1 / info.sample_rate,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s "
            "[{elapsed}<{remaining}]",
        ) as bar:

            def advance(samples: int, bar: tqdm = bar) -> None:  # type: ignore[type-arg]
                # A container's length is an estimate; tqdm forgets a total that is passed.
                bar.total = max(bar.total or 0, bar.n + samples)
                bar.update(samples)

            separate_file(
                model,
                song,
                folder,
                force=force,
                overlap=overlap,
                shifts=shifts,
                postprocessing=postprocessing,
                progress=advance,
            )
        print(folder)
    return folders


def _settings(text: str | None) -> PostProcessing | None:
    """Read settings as a config has them."""
    if text is None:
        return None
    try:
        settings: PostProcessing = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"--postprocessing is {text!r}: settings as in '{{softness: 4}}' were expected"
        ) from error
    return settings


if __name__ == "__main__":
    sys.exit(main())
