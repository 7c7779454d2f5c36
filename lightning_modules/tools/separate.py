"""Separate songs: ``python -m lightning_modules.tools.separate song.wav --checkpoint X -o out``."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.audio import AudioInfo
from datamodules.files.find import find_audio_files, song_name
from lightning_modules.base.description import check_is_there
from lightning_modules.inference.encoding import CLIPPING, FORMATS, Encoding

if TYPE_CHECKING:
    from lightning_modules.base.separator import SourceSeparator
    from lightning_modules.inference.postprocessing import PostProcessing

_EXIT = """exit status: 0 when all songs are done, 1 when some could not be separated (the others
are), 2 for a mistake that stops everything before the first song"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Separate the files that the command line names.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 if some songs could not be separated, 2 for a mistake that the message
        on stderr explains, or 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    return command_line.run(
        lambda: 1 if separate_songs(options) else 0,
        "stopped; the same command with --resume goes on with the songs that are left",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.tools.separate", epilog=_EXIT
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        help="audio files, folders of them, patterns such as 'albums/**/*.flac', or - for a list "
        "on standard input, one a line",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=Path,
        help="a checkpoint of `fit`, or an exported folder",
    )
    add("--denoiser", type=Path, help="checkpoint of a denoiser to go in front")
    add("-o", "--output", type=Path, default=Path("separated"), help="folder (default separated)")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--force", action="store_true", help="overwrite what is there")
    there.add_argument("--resume", action="store_true", help="leave out songs that are done")
    what = parser.add_argument_group("stems")
    add = what.add_argument
    add("--stems", type=lambda words: words.split(","), metavar="A,B", help="these only")
    add("--two-stems", metavar="STEM", help="this one, and the sum of the others as no_STEM")
    add("--residual", action="store_true", help="what the mixture holds beyond the stems, too")
    files = parser.add_argument_group("files")
    add = files.add_argument
    add("--format", choices=FORMATS, default="wav", help="default wav")
    add("--bits", type=int, help="wav: 16, 24, 32 (float, default); flac: 16, 24 (default)")
    add("--bitrate", type=int, default=256, help="kbit/s of mp3 and stem.mp4 (default 256)")
    add("--clipping", choices=CLIPPING, default="rescale",
        help="of stems beyond full scale, but in float: turn all of a song down by one factor, "
        "or cut the peaks off (default rescale)")  # fmt: skip
    how = parser.add_argument_group("separation")
    add = how.add_argument
    add("--device", help="cpu, cuda, ...; by default the fastest")
    add("--jobs", type=int, default=1, help="songs at a time (default 1)")
    add("--overlap", type=float, help="part of a chunk shared with the next, 0 to 0.5")
    add("--shifts", type=int, help="random delays averaged over, at as many times the cost")
    add("--wiener", type=int, metavar="N", help="iterations of the Wiener filter; 0 for none")
    add("--postprocessing", metavar="SETTINGS",
        help="as in a config, such as '{softness: 4}'; '{}' for none; by default the model's",
    )  # fmt: skip
    return parser


@dataclass(frozen=True)
class _Song:
    path: Path
    folder: Path
    info: AudioInfo

    @property
    def seconds(self) -> float:
        return self.info.samples / self.info.sample_rate


def separate_songs(options: argparse.Namespace) -> int:
    """Separate songs, block by block, so that their length does not matter.

    Args:
        options: The command line.

    Returns:
        Number of songs that could not be separated.

    Raises:
        DataError: An option, a song or the checkpoint cannot be used.
        FileExistsError: Stems are there, and neither ``--force`` nor ``--resume`` is given.
    """
    if options.jobs < 1:
        raise DataError(f"--jobs is {options.jobs}: give a number from 1 on")
    for path in (options.checkpoint, options.denoiser):
        if path is not None:
            check_is_there(path)
    command_line.check_folder(options.output, "-o")
    encoding = Encoding(options.format, options.bits, options.bitrate, options.clipping)
    # A bad file is told before the model is loaded, which takes seconds.
    songs = [
        _Song(path, options.output / song_name(path), info)
        for path, info in find_audio_files(_named(options.inputs)).items()
    ]
    for song in songs:
        encoding.check_rate(song.path, song.info.sample_rate)
    settings = _settings(options.postprocessing)

    from lightning_modules.inference.stem_files import Selection, StemFiles

    selection = Selection(options.stems, options.two_stems, options.residual)
    model = _load(options, settings)
    stems = selection.names(model.sources)
    if options.resume:
        left = [s for s in songs if not all(p.is_file() for p in encoding.files(s.folder, stems))]
        if len(left) < len(songs):
            print(f"{len(songs) - len(left)} of {len(songs)} songs are done already")
        songs = left
    elif not options.force:
        for song in songs:  # all of them before the first is separated
            StemFiles.check_free(song.folder, stems, encoding)
    keywords = {
        "force": options.force or options.resume,
        "overlap": options.overlap,
        "shifts": options.shifts,
        "postprocessing": settings,
        "selection": selection,
        "encoding": encoding,
    }
    return _separate_all(model, songs, options.jobs, keywords)


def _named(inputs: Sequence[str]) -> Iterator[str]:
    """The inputs, with those that standard input lists in the place of ``-``."""
    for word in inputs:
        if word == "-":
            yield from filter(None, map(str.strip, sys.stdin))
        else:
            yield word


def _load(options: argparse.Namespace, settings: PostProcessing | None) -> SourceSeparator:
    import torch

    from lightning_modules.architectures.cascade import Cascade
    from lightning_modules.base.spectrogram import SpectrogramSeparator
    from lightning_modules.checkpoints.loading import load_separator
    from lightning_modules.inference.postprocessing import PostProcessor
    from lightning_modules.inference.separation import check_overlap
    from lightning_modules.inference.shifts import check_shifts
    from lightning_modules.runtime.device import usable_device

    check_overlap(0.0 if options.overlap is None else options.overlap)
    check_shifts(options.shifts or 0)
    place = usable_device(options.device)
    model: SourceSeparator
    if options.denoiser:
        model = Cascade(options.denoiser, options.checkpoint, place)
    else:
        model = load_separator(options.checkpoint, place)
    PostProcessor(settings or {}, model.sources, model.sample_rate)  # checks them
    if options.wiener is not None:
        refined = model.separator if isinstance(model, Cascade) else model
        if not isinstance(refined, SpectrogramSeparator):
            raise DataError(
                f"{options.checkpoint}: a {type(refined).__name__} has no Wiener filter, which "
                "refines spectrograms; leave out --wiener"
            )
        if options.wiener < 0:
            raise DataError(f"--wiener is {options.wiener}: give a number of iterations from 0 on")
        refined.wiener_iterations = options.wiener
    if place.type == "cpu" and options.jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
    return model


def _separate_all(
    model: SourceSeparator, songs: list[_Song], jobs: int, keywords: dict[str, Any]
) -> int:
    """Separate songs under one progress bar, and say how fast it went.

    Returns:
        Number of songs that could not be separated.
    """
    from tqdm import tqdm

    from lightning_modules.inference.stem_files import separate_file

    started = time.perf_counter()
    faults: list[str] = []
    stopped = threading.Event()
    with tqdm(
        total=sum(song.seconds for song in songs),
        desc="separating",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s "
        "[{elapsed}<{remaining}]",
    ) as bar:

        def separate(song: _Song) -> None:
            bar.set_description_str(song_name(song.path))

            def advance(samples: int) -> None:
                if stopped.is_set():
                    raise KeyboardInterrupt
                seconds = samples / song.info.sample_rate
                with bar.get_lock():  # type: ignore[no-untyped-call]
                    # A container's length is an estimate; tqdm forgets a total that is passed.
                    bar.total = max(bar.total or 0, bar.n + seconds)
                    bar.update(seconds)

            try:
                gain = separate_file(model, song.path, song.folder, progress=advance, **keywords)
            except (OSError, ValueError) as error:
                faults.append(f"error: {command_line.describe(error)}")
                bar.write(faults[-1], sys.stderr)
                return
            turned = f" (turned down to {gain:.3g} so that nothing clips)" if gain < 1 else ""
            bar.write(f"{song.folder}{turned}", sys.stdout)

        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(separate, song) for song in songs]
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        audio, taken = bar.n, time.perf_counter() - started
    number = len(songs) - len(faults)
    if audio:
        print(
            f"{number} {'song' if number == 1 else 'songs'}, {audio:.0f} s of audio in {taken:.1f} "
            f"s: {audio / taken:.3g} times real time",
            file=sys.stderr,
        )
    if faults:
        print(f"{len(faults)} of {len(songs)} songs could not be separated", file=sys.stderr)
    return len(faults)


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
