"""Separate songs: ``python -m lightning_modules.tools.separate song.wav --checkpoint X -o out``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.audio import inspect
from datamodules.songs import find_songs, song_name

_BLOCK_SECONDS = 30


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
    parser.add_argument("-o", "--output", type=Path, default=Path("separated"), help="folder")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; by default the fastest")
    parser.add_argument(
        "--overlap", type=float, default=None, help="part of a chunk shared with the next, 0 to 0.5"
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
        )
    except (FileExistsError, ValueError) as error:
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
) -> list[Path]:
    """Separate files, block by block, so that their length does not matter.

    Args:
        songs: Audio files.
        checkpoint: Checkpoint of the separator.
        output: Folder; each song gets one of its own in it.
        force: Overwrite what is there.
        device: Torch device; by default CUDA where there is one.
        overlap: Part of a chunk that is cross-faded with the next; by default the model's.

    Returns:
        Folder of each song's stems.

    Raises:
        FileExistsError: Stems are there and ``force`` is not given.
    """
    import torch
    from tqdm import tqdm

    from datamodules.audio import blocks
    from lightning_modules.checkpoint import load_separator
    from lightning_modules.separation import separate_stream
    from lightning_modules.stem_files import StemFiles

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_separator(checkpoint, place)
    folders = [output / song_name(song) for song in songs]
    for folder in folders if not force else []:
        if existing := StemFiles.existing(folder, model.sources):
            raise FileExistsError(
                f"{existing[0]} is there already; give --force to overwrite it, or another -o"
            )
    for song, folder in zip(songs, folders, strict=True):
        info = inspect(song)
        rate = info.sample_rate
        pieces = (
            torch.from_numpy(block).to(place) for block in blocks(song, _BLOCK_SECONDS * rate)
        )
        estimates = separate_stream(
            model,
            pieces,
            rate,
            overlap=model.overlap if overlap is None else overlap,
            batch_size=model.chunks_at_once,
        )
        with (
            StemFiles(folder, model.sources, rate, info.channels, force=force) as files,
            tqdm(
                total=info.samples,
                desc=song_name(song),
                unit="s",
                unit_scale=1 / rate,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s "
                "[{elapsed}<{remaining}]",
            ) as bar,
        ):
            for estimate in estimates:
                files.write(estimate.cpu().numpy())
                # A container's length is an estimate; tqdm forgets a total that is passed.
                bar.total = max(bar.total or 0, bar.n + estimate.shape[-1])
                bar.update(estimate.shape[-1])
        print(folder)
    return folders


if __name__ == "__main__":
    sys.exit(main())
