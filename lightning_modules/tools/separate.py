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

_EXIT = """exit status: 0 if all songs are done, 1 if some are incomplete or could not be
separated, 2 for a mistake found before the first song"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Separate songs; return the exit status described by ``--help``, or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    return command_line.run(
        lambda: 1 if separate_songs(options) else 0,
        "stopped; the same command with --resume continues with the remaining songs",
    )


def _parser() -> argparse.ArgumentParser:
    name = "python -m lightning_modules.tools.separate"
    parser = argparse.ArgumentParser(prog=name, epilog=_EXIT)
    add = parser.add_argument
    inputs = "audio files, folders, patterns such as 'a/**/*.flac', or - for a list on stdin"
    add("inputs", nargs="+", help=inputs)
    checkpoint = "a checkpoint of `fit`, or an exported folder"
    add("--checkpoint", required=True, type=Path, help=checkpoint)
    add("--denoiser", type=Path, help="checkpoint of a denoiser to apply before the separator")
    add("-o", "--output", type=Path, default=Path("separated"), help="folder (default separated)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite existing files")
    existing.add_argument("--resume", action="store_true", help="skip songs whose files all exist")
    add = parser.add_argument_group("stems").add_argument
    add("--stems", type=lambda words: words.split(","), metavar="A,B", help="only these stems")
    add("--two-stems", metavar="STEM", help="this stem, and the sum of the others as no_STEM")
    add("--residual", action="store_true", help="also write the mixture minus the stems")
    add = parser.add_argument_group("files").add_argument
    add("--format", choices=FORMATS, default="wav", help="default wav")
    add("--bits", type=int, help="wav: 16, 24, 32 (float, default); flac: 16, 24 (default)")
    add("--bitrate", type=int, default=256, help="kbit/s of mp3 and stem.mp4 (default 256)")
    add(
        "--clipping",
        choices=CLIPPING,
        default="rescale",
        help="if stems exceed full scale, in all formats but float: turn all stems of the song "
        "down by one factor, or clip the peaks (default rescale)",
    )
    add = parser.add_argument_group("separation").add_argument
    add("--device", help="cpu, cuda, ... (default: the fastest)")
    add("--jobs", type=command_line.count(), default=1, help="songs at a time (default 1)")
    add("--overlap", type=float, help="share of a chunk that overlaps the next, 0 to 0.5")
    add("--shifts", type=int, help="number of random delays to average over")
    add("--wiener", type=int, metavar="N", help="iterations of the Wiener filter; 0 for none")
    add(
        "--postprocessing",
        metavar="SETTINGS",
        help="as in a config, such as '{softness: 4}'; '{}' for none (default: the model's)",
    )
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
    """Separate songs in blocks, in memory that does not depend on their length.

    Returns:
        Number of songs that could not be separated, or only in part.

    Raises:
        DataError: An option, a song or the checkpoint cannot be used.
        FileExistsError: Stems exist, and neither ``--force`` nor ``--resume`` is given.
    """
    for path in filter(None, (options.checkpoint, options.denoiser)):
        check_is_there(path)
    command_line.check_folder(options.output, "-o")
    encoding = Encoding(options.format, options.bits, options.bitrate, options.clipping)
    # Report bad files before loading the model, which takes seconds.
    songs = [
        _Song(path, options.output / song_name(path), info)
        for path, info in find_audio_files(_expand_stdin(options.inputs)).items()
    ]
    for song in songs:
        encoding.check_rate(song.path, song.info.sample_rate)
    settings = _settings(options.postprocessing)

    from lightning_modules.inference.stem_files import Selection, StemFiles

    selection = Selection(options.stems, options.two_stems, options.residual)
    model = _load(options, settings)
    stems = selection.names(model.sources)
    if options.resume:
        files = [encoding.files(song.folder, stems) for song in songs]
        done = [all(path.is_file() for path in paths) for paths in files]
        if any(done):
            print(f"{sum(done)} of {len(songs)} songs are already done")
        songs = [song for song, is_done in zip(songs, done, strict=True) if not is_done]
    elif not options.force:
        for song in songs:
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


def _expand_stdin(inputs: Sequence[str]) -> Iterator[str]:
    """Replace ``-`` by the lines of standard input."""
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
    from lightning_modules.inference.overlap_add import check_overlap
    from lightning_modules.inference.postprocessing import PostProcessor
    from lightning_modules.inference.shifts import check_shifts
    from lightning_modules.runtime.device import usable_device

    check_overlap(0.0 if options.overlap is None else options.overlap)
    check_shifts(options.shifts or 0)
    device = usable_device(options.device)
    model: SourceSeparator
    if options.denoiser:
        model = Cascade(options.denoiser, options.checkpoint, device)
    else:
        model = load_separator(options.checkpoint, device)
    PostProcessor(settings or {}, model.sources, model.sample_rate)  # raises if unusable
    if options.wiener is not None:
        refined = model.separator if isinstance(model, Cascade) else model
        if not isinstance(refined, SpectrogramSeparator):
            raise DataError(
                f"{options.checkpoint}: {type(refined).__name__} has no Wiener filter, which only "
                "models of spectrograms have; leave out --wiener"
            )
        if options.wiener < 0:
            raise DataError(f"--wiener is {options.wiener}: give 0 or more iterations")
        refined.wiener_iterations = options.wiener
    if device.type == "cpu" and options.jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
    return model


def _separate_all(
    model: SourceSeparator, songs: list[_Song], jobs: int, keywords: dict[str, Any]
) -> int:
    """Separate songs with a progress bar; return how many failed or are incomplete."""
    from tqdm import tqdm

    from lightning_modules.inference.stem_files import separate_file

    started = time.perf_counter()
    failed: list[_Song] = []
    incomplete: list[_Song] = []
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
                    # Headers may misstate the length; tqdm drops a total that is exceeded.
                    bar.total = max(bar.total or 0, bar.n + seconds)
                    bar.update(seconds)

            try:
                done = separate_file(model, song.path, song.folder, progress=advance, **keywords)
            except (OSError, ValueError) as error:
                failed.append(song)
                bar.write(f"error: {command_line.describe(error)}", sys.stderr)
                return
            note = f" (turned down to {done.gain:.3g} to avoid clipping)" if done.gain < 1 else ""
            bar.write(f"{song.folder}{note}", sys.stdout)
            if done.shortfall:
                incomplete.append(song)
                bar.write(f"warning: {done.shortfall}", sys.stderr)

        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(separate, song) for song in songs]
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        audio, seconds = bar.n, time.perf_counter() - started
    number = len(songs) - len(failed)
    if audio:
        speed = f"{audio:.0f} s of audio in {seconds:.1f} s: {audio / seconds:.3g} times real time"
        print(f"{number} song{'s' * (number != 1)}, {speed}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(songs)} songs could not be separated", file=sys.stderr)
    if incomplete:
        print(f"{len(incomplete)} of {len(songs)} songs are incomplete", file=sys.stderr)
    return len(failed) + len(incomplete)


def _settings(text: str | None) -> PostProcessing | None:
    if text is None:
        return None
    try:
        settings: PostProcessing = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"--postprocessing is {text!r}, which is not YAML: expected settings such as "
            "'{softness: 4}'"
        ) from error
    return settings


if __name__ == "__main__":
    sys.exit(main())
