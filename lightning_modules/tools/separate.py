"""Separate songs: ``python -m lightning_modules.tools.separate song.wav --checkpoint X -o out``."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.audio import AudioInfo
from datamodules.files.find import SongFile, find_audio_files
from datamodules.files.name_lists import read_names
from datamodules.files.writing import check_room
from lightning_modules.inference.encoding import CLIPPING, FORMATS, Encoding
from lightning_modules.inference.naming import Naming, check_files, without_stems
from lightning_modules.inference.options import Combination, add_options, given_settings
from lightning_modules.inference.selection import OtherMethod, Selection
from lightning_modules.interop.published import LIST_COMMAND, check_model, default_model

if TYPE_CHECKING:
    from lightning_modules.base.separator import SourceSeparator
    from lightning_modules.inference.postprocessing import PostProcessing
    from lightning_modules.inference.shared_batches import SharedBatches

_BAR_CHARACTERS = 40
# Devices on which the time of a batch is proportional to its size: filling it gains nothing.
_PROPORTIONAL = ("cpu",)
_EXIT = """exit status: 0 if all songs are done, 1 if some are incomplete or could not be
separated, 2 for a mistake found before the first song"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Separate songs; return the exit status described by ``--help``, or 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    return command_line.run(
        lambda: 1 if separate_songs(options) else 0,
        "stopped; the same command with --resume continues with the remaining songs",
    )


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.separate", epilog=_EXIT)
    add = parser.add_argument
    inputs = (
        "audio files, folders with all that is below them, patterns such as 'a/**/*.flac', or - "
        "for a list of names on stdin"
    )
    add("inputs", nargs="+", help=inputs)
    add(
        "--checkpoint",
        "--model",
        action="append",
        type=Path,
        metavar="MODEL",
        help="name of a published model (`stemlab models` lists them), a "
        "checkpoint of `fit`, an exported folder, or the config of an ensemble; given several "
        f"times, the estimates of all are combined (default {default_model()})",
    )
    add("--ensemble", choices=get_args(Combination), help="how they are combined (default mean)")
    add("--denoiser", type=Path, help="checkpoint of a denoiser to apply before the separator")
    add("-o", "--output", type=Path, default=Path("separated"), help="folder (default separated)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite existing files")
    existing.add_argument("--resume", action="store_true", help="skip songs whose files all exist")
    mix = "mix more than two channels down to stereo (centre and surrounds at -3 dB, without LFE)"
    add("--downmix", action="store_true", help=mix)
    add = parser.add_argument_group("stems").add_argument
    add("--stems", type=lambda words: words.split(","), metavar="A,B", help="only these stems")
    add("--two-stems", metavar="STEM", help="this stem, and the rest of the song as no_STEM")
    add(
        "--instrumental",
        action="store_true",
        help="vocals and instrumental; the one that the model does not have is the song's rest",
    )
    add(
        "--other-method",
        choices=get_args(OtherMethod),
        default="minus",
        help="the rest of the song is the mixture minus the stem (minus, default), the sum of the "
        "model's other stems (add), or not written (none)",
    )
    add("--residual", action="store_true", help="also write the mixture minus all stems")
    add = parser.add_argument_group("files").add_argument
    add(
        "--name",
        metavar="TEMPLATE",
        help="names of the files below -o, without suffix, such as '{song} - {stem}'; {folder} is "
        "the song's folder below the one that is searched (default '{folder}/{song}/{stem}')",
    )
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
    separation = parser.add_argument_group("separation", "the default is that of the checkpoint")
    add_options(separation)
    add = separation.add_argument
    add("--device", help="cpu, cuda, ... (default: the fastest)")
    add("--jobs", type=command_line.count(), default=1, help="songs at a time (default 1)")
    add("--wiener", type=int, metavar="N", help="iterations of the Wiener filter; 0 for none")
    add(
        "--postprocessing",
        metavar="SETTINGS",
        help="as in a config, such as '{softness: 4}'; '{}' for none (default: the model's)",
    )
    return parser


@dataclass(frozen=True)
class _Job:
    song: SongFile
    info: AudioInfo
    files: list[Path]

    @property
    def seconds(self) -> float:
        return self.info.samples / self.info.sample_rate


def separate_songs(options: argparse.Namespace) -> int:
    """Separate songs in blocks, in memory that does not depend on their length.

    All that is wrong with songs is printed before the first is separated; the others are done.

    Returns:
        Number of inputs that could not be separated, or only in part.

    Raises:
        DataError: An option, the checkpoint or all songs cannot be used, or the disk is too small.
        FileExistsError: Stems exist, and neither ``--force`` nor ``--resume`` is given.
    """
    if not options.checkpoint:
        options.checkpoint = [Path(default_model())]
        print(
            f"no model is given: using {default_model()}; --model gives another, `{LIST_COMMAND}` "
            "lists them",
            file=sys.stderr,
        )
    for path in filter(None, (*options.checkpoint, options.denoiser)):
        check_model(path)
    if options.ensemble and len(options.checkpoint) == 1:
        raise DataError(
            "--ensemble combines several models: give --checkpoint for each, or a config with "
            "combination instead"
        )
    command_line.check_folder(options.output, "-o")
    encoding = Encoding(options.format, options.bits, options.bitrate, options.clipping)
    naming = Naming(encoding, options.name)
    settings = _settings(options.postprocessing)
    selection = Selection(
        options.stems,
        options.two_stems,
        options.instrumental,
        options.other_method,
        options.residual,
    )
    # Report bad files before loading the model, which takes seconds.
    found = find_audio_files(
        _expand_stdin(options.inputs), options.output, progress=True, downmix=options.downmix
    )
    for note in found.notes:
        print(f"note: {command_line.printable(note)}", file=sys.stderr)

    def check(song: SongFile, info: AudioInfo) -> None:
        encoding.check(song.path, info)
        _check_place(naming.files(options.output, song, ["stem"])[0])

    songs, faults = _checked(found.songs, check)
    left_out = _report(found.faults + faults, len(songs))

    command_line.announce("Loading the model...")
    from lightning_modules.inference.separation import check_channels

    model = _load(options, settings)
    stems = selection.names(model.sources)
    songs, faults = _checked(songs, lambda song, info: check_channels(model, info.channels))
    left_out += _report(faults, len(songs))
    files = {song: naming.files(options.output, song, stems) for song in songs}
    if options.resume:
        files = without_stems(files)
    check_files(files)
    jobs = [_Job(song, songs[song], paths) for song, paths in files.items()]
    jobs = _remaining(jobs, options, encoding, len(stems))
    keywords = {
        "force": options.force or options.resume,
        "selection": selection,
        "encoding": encoding,
        "downmix": options.downmix,
    }
    shown = "folder" if naming.has_song_folder else "files"
    return left_out + _separate_all(model, jobs, options.output, shown, options.jobs, keywords)


def _expand_stdin(inputs: Sequence[str]) -> Iterator[str]:
    """Replace ``-`` by the names on standard input."""
    for word in inputs:
        if word == "-":
            yield from read_names(sys.stdin.buffer)
        else:
            yield word


def _check_place(path: Path) -> None:
    """Raise unless a file can have this name."""
    with suppress(FileNotFoundError):
        if path.is_dir():
            raise DataError(f"{path} is a folder, expected a file or nothing; give another -o")
        path.lstat()  # raises if the name is too long for the disk
    command_line.check_folder(path.parent, "its stems go to")


def _checked(
    songs: dict[SongFile, AudioInfo], check: Callable[[SongFile, AudioInfo], None]
) -> tuple[dict[SongFile, AudioInfo], list[str]]:
    """Apply a check that raises to songs; return those that pass, and messages about others."""
    passed, faults = {}, []
    for song, info in songs.items():
        try:
            check(song, info)
            passed[song] = info
        except (OSError, ValueError) as error:
            faults.append(_explain(song.path, error))
    return passed, faults


def _report(faults: list[str], remaining: int) -> int:
    """Print all faults and return their number; raise if no songs remain."""
    lines = [command_line.printable(fault) for fault in faults]
    if not remaining:
        raise DataError("\nerror: ".join(lines))
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    if lines:
        others = f"the other {remaining} songs" if remaining > 1 else "the other song"
        print(f"{len(lines)} of the inputs cannot be separated; {others} will be", file=sys.stderr)
    return len(lines)


def _explain(path: Path, error: Exception) -> str:
    """Message about an error of a song, with its name."""
    text = command_line.describe(error)
    if "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError):
        text = "the memory is full; use --jobs 1 or --device cpu, or close other programs"
    return text if str(path) in text else f"{path}: {text}"


def _remaining(
    jobs: list[_Job], options: argparse.Namespace, encoding: Encoding, stems: int
) -> list[_Job]:
    """Leave out songs that are done, with ``--resume``; check that the others can be written."""
    from lightning_modules.inference.stem_files import check_free, temporary_size

    if options.resume:
        done = [all(path.is_file() for path in job.files) for job in jobs]
        if any(done):
            print(f"{sum(done)} of {len(jobs)} songs are already done")
        jobs = [job for job, is_done in zip(jobs, done, strict=True) if not is_done]
    elif not options.force:
        check_free([path for job in jobs for path in job.files])
    if jobs:
        infos = [job.info for job in jobs]
        needed = sum(encoding.size(info, stems) for info in infos)
        needed += max(temporary_size(info, stems, encoding) for info in infos)
        replaced = (path for job in jobs for path in job.files if path.is_file())
        others = f" and those of {len(jobs) - 1} more need" if len(jobs) > 1 else " need"
        check_room(
            options.output,
            needed - sum(path.stat().st_size for path in replaced),
            f"{jobs[0].song.path}: its stems{others}",
        )
    return jobs


def _load(options: argparse.Namespace, settings: PostProcessing | None) -> SourceSeparator:
    import torch

    from lightning_modules.architectures.cascade import Cascade
    from lightning_modules.architectures.ensemble import Ensemble
    from lightning_modules.checkpoints.loading import load_separator
    from lightning_modules.inference.postprocessing import PostProcessor
    from lightning_modules.inference.separation import SeparationSettings
    from lightning_modules.runtime.device import usable_device

    given = given_settings(vars(options))
    if settings is not None:
        given["postprocessing"] = settings
    SeparationSettings(**given)  # raises before the model is loaded
    device = usable_device(options.device)
    models: list[SourceSeparator] = [
        Cascade(options.denoiser, path) if options.denoiser else load_separator(path)
        for path in options.checkpoint
    ]
    if options.wiener is not None:
        _set_wiener(models, options)
    model = models[0]
    if len(models) > 1:
        model = Ensemble(models, combination=options.ensemble or "mean")
    model = model.to(device).eval()
    PostProcessor(settings or {}, model.sources, model.sample_rate)  # raises if unusable
    model.separation_settings = model.separation_settings.changed(**given)
    if device.type == "cpu" and options.jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
    return model


def _set_wiener(models: Sequence[SourceSeparator], options: argparse.Namespace) -> None:
    """Set the iterations of the Wiener filter of all models that have one."""
    from lightning_modules.architectures.cascade import Cascade
    from lightning_modules.base.spectrogram import SpectrogramSeparator

    if options.wiener < 0:
        raise DataError(f"--wiener is {options.wiener}: give 0 or more iterations")
    refined = [model.separator if isinstance(model, Cascade) else model for model in models]
    found = [
        part
        for model in refined
        for part in model.modules()
        if isinstance(part, SpectrogramSeparator)
    ]
    if not found:
        names = ", ".join(type(model).__name__ for model in refined)
        raise DataError(
            f"{', '.join(map(str, options.checkpoint))}: {names} has no Wiener filter, which only "
            "models of spectrograms have; leave out --wiener"
        )
    for part in found:
        part.wiener_iterations = options.wiener


def _separate_all(
    model: SourceSeparator,
    jobs: list[_Job],
    output: Path,
    shown: str,
    threads: int,
    keywords: dict[str, Any],
) -> int:
    """Separate songs with a progress bar; return how many failed or are incomplete."""
    from tqdm import tqdm

    from lightning_modules.inference.shared_batches import SharedBatches
    from lightning_modules.inference.stem_files import separate_file

    batches = SharedBatches(len(jobs), threads)
    if model.device.type not in _PROPORTIONAL:
        _share(model, batches)
    started = time.perf_counter()
    failed: list[_Job] = []
    incomplete: list[_Job] = []
    stopped = threading.Event()
    # Some formats declare no length; then there is no total.
    total = sum(job.seconds for job in jobs) if all(job.info.samples for job in jobs) else None
    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(
        total=total,
        desc="separating",
        bar_format=bar_format if total else "{desc}: {n:.0f} s [{elapsed}]",
    ) as bar:

        def separate(job: _Job) -> None:
            bar.set_description_str(command_line.printable(job.song.name)[:_BAR_CHARACTERS])

            def advance(samples: int) -> None:
                if stopped.is_set():
                    raise KeyboardInterrupt
                seconds = samples / job.info.sample_rate
                with bar.get_lock():  # type: ignore[no-untyped-call]
                    if bar.total:
                        # Headers may misstate the length; tqdm drops a total that is exceeded.
                        bar.total = max(bar.total, bar.n + seconds)
                    bar.update(seconds)

            path = job.song.path
            try:
                with batches.song():
                    done = separate_file(
                        model, path, output, files=job.files, progress=advance, **keywords
                    )
            except Exception as error:  # of libraries, too: the other songs are still separated
                failed.append(job)
                bar.write(f"error: {command_line.printable(_explain(path, error))}", sys.stderr)
                return
            note = f" (turned down to {done.gain:.3g} to avoid clipping)" if done.gain < 1 else ""
            for written in [job.files[0].parent] if shown == "folder" else job.files:
                bar.write(f"{command_line.printable(written)}{note}", sys.stdout)
            if done.shortfall:
                incomplete.append(job)
                bar.write(f"warning: {command_line.printable(done.shortfall)}", sys.stderr)

        with ThreadPoolExecutor(batches.most_open) as pool:
            waiting = [pool.submit(separate, job) for job in jobs]
            try:
                for future in waiting:
                    future.result()
            except BaseException:
                stopped.set()
                batches.stop()
                pool.shutdown(cancel_futures=True)
                raise
        audio, seconds = bar.n, time.perf_counter() - started
    number = len(jobs) - len(failed)
    if audio:
        speed = f"{audio:.0f} s of audio in {seconds:.1f} s: {audio / seconds:.3g} times real time"
        print(f"{number} song{'s' * (number != 1)}, {speed}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(jobs)} songs could not be separated", file=sys.stderr)
    if incomplete:
        print(f"{len(incomplete)} of {len(jobs)} songs are incomplete", file=sys.stderr)
    return len(failed) + len(incomplete)


def _share(model: SourceSeparator, batches: SharedBatches) -> None:
    """Let a model, or the members of an ensemble, separate chunks of several songs at once."""
    settings = model.separation_settings
    parts = zip(getattr(model, "members", [model]), settings.members or [settings], strict=True)
    for part, own in parts:
        part.forward = batches.share(part.forward, own.batch_size)


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
