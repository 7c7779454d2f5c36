"""Separate songs: ``python -m lightning_modules.tools.separate song.wav --checkpoint X -o out``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import yaml

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.files.audio import AudioInfo
from datamodules.files.find import SongFile, find_audio_files
from datamodules.files.name_lists import read_names
from datamodules.files.song import open_song
from datamodules.parallel import for_each
from lightning_modules.inference.encoding import CLIPPING, FORMATS, Encoding
from lightning_modules.inference.naming import ALL_STEMS, Naming, check_files, without_stems
from lightning_modules.inference.options import Combination, add_options, given_settings
from lightning_modules.inference.report import Job, Report
from lightning_modules.inference.selection import OtherMethod, Selection
from lightning_modules.inference.song_checks import (
    check_place,
    check_songs,
    check_writable,
    leave_out_done,
    report_faults,
)
from lightning_modules.interop.published import LIST_COMMAND, check_model, default_model

if TYPE_CHECKING:
    import torch

    from lightning_modules.base.separator import SourceSeparator
    from lightning_modules.inference.postprocessing import PostProcessing
    from lightning_modules.inference.songs import Songs
    from lightning_modules.inference.stem_files import SeparatingModule

_EXIT = """exit status: 0 if all songs are done, 1 if some are incomplete or could not be
separated, 2 for a mistake found before the first song"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Separate songs; return the exit status described by ``--help``, or 130 after Ctrl-C."""
    options = build_parser().parse_args(arguments)
    report = Report([str(path) for path in options.checkpoint], options.json, options.quiet)

    def work() -> int:
        try:
            return 1 if separate_songs(options, report) else 0
        except Exception as error:
            report.mistake(error)
            raise

    return command_line.run(
        work,
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
        default=[],
        metavar="MODEL",
        help="name of a published model (`stemlab models` lists them), a "
        "checkpoint of `fit`, an exported folder, or the config of an ensemble; given several "
        f"times, the estimates of all are combined (default {default_model()})",
    )
    add("--ensemble", choices=get_args(Combination), help="how they are combined (default mean)")
    add("--denoiser", type=Path, help="checkpoint of a denoiser to apply before the separator")
    add(
        "-o",
        "--output",
        "--out",
        type=Path,
        default=Path("separated"),
        help="folder (default separated)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite existing files")
    existing.add_argument("--resume", action="store_true", help="skip songs whose files all exist")
    mix = "mix more than two channels down to stereo (centre and surrounds at -3 dB, without LFE)"
    add("--downmix", action="store_true", help=mix)
    output = parser.add_argument_group("output").add_argument
    output(
        "--json",
        action="store_true",
        help="one line of JSON on stdout for each song, also for those that fail",
    )
    output("--quiet", action="store_true", help="print errors and warnings, and JSON, but no more")
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
        help="names of the files below -o, without suffix, such as '{song} - {stem}' or, with "
        "tags, '{artist}/{album}/{track} {title}/{stem}'; {folder} is the song's folder below the "
        "searched one (default '{folder}/{song}/{stem}')",
    )
    add("--format", choices=FORMATS, default="wav", help="default wav")
    add("--bits", type=int, help="wav: 16, 24, 32 (float, default); flac, alac: 16, 24 (default)")
    add("--bitrate", type=int, default=256, help="kbit/s of mp3, opus, stem.mp4 (default 256)")
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
    add(
        "--device",
        "--devices",
        metavar="NAMES",
        help="cpu, cuda, ... (default: the fastest); songs are divided among several, such as "
        "cuda:0,cuda:1, or all GPUs (all)",
    )
    jobs = "songs at a time on each device (default 1)"
    add("--jobs", type=command_line.count(), default=1, help=jobs)
    add(
        "--precision",
        choices=("32-true", "bf16-mixed", "16-mixed"),
        default="32-true",
        help="of the network: bf16-mixed and 16-mixed are for GPUs, to save time and memory "
        "(default 32-true)",
    )
    add("--wiener", type=int, metavar="N", help="iterations of the Wiener filter; 0 for none")
    add(
        "--postprocessing",
        metavar="SETTINGS",
        help="as in a config, such as '{softness: 4}'; '{}' for none (default: the model's)",
    )
    return parser


def separate_songs(options: argparse.Namespace, report: Report) -> int:
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
        report.models = [default_model()]
        report.note(
            f"no model is given: using {default_model()}; --model gives another, `{LIST_COMMAND}` "
            "lists them"
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
        _expand_stdin(options.inputs), options.output, not options.quiet, options.downmix
    )
    for note in found.notes:
        report.note(f"note: {note}")

    tags = _tags(found.songs) if naming.needs_tags else {}

    def check(song: SongFile, info: AudioInfo) -> None:
        encoding.check(song.path, info)
        check_place(naming.files(options.output, song, ["stem"], tags.get(song))[0])

    songs, faults = check_songs(found.songs, check)
    left_out = report_faults(found.faults | faults, len(songs), report)

    if not options.quiet:
        command_line.announce("Loading the model...")
    from lightning_modules.inference.separation import check_channels
    from lightning_modules.inference.songs import Songs, copy_to

    model, devices = _load(options, settings)
    stems = selection.names(model.sources)
    songs, faults = check_songs(songs, lambda song, info: check_channels(model, info.channels))
    left_out += report_faults(faults, len(songs), report)
    files = {song: naming.files(options.output, song, stems, tags.get(song)) for song in songs}
    if options.resume:
        files = without_stems(files)
    check_files(files)
    names = [ALL_STEMS] if encoding.is_one_file else stems
    jobs = [
        Job(song, songs[song], dict(zip(names, paths, strict=True)))
        for song, paths in files.items()
    ]
    if options.resume:
        jobs = leave_out_done(jobs, report)
    if not jobs:
        return left_out
    check_writable(jobs, options.output, encoding, len(stems), options.force or options.resume)
    if len(jobs) < len(devices):
        report.note(f"{len(jobs)} of {len(devices)} devices are used: each song runs on one")
    return left_out + _separate_all(
        Songs(
            jobs,
            options.output,
            report,
            naming.has_song_folder,
            force=options.force or options.resume,
            selection=selection,
            encoding=encoding,
            downmix=options.downmix,
        ),
        copy_to(model, devices[: len(jobs)], options.precision),
        options.jobs,
        report,
    )


def _expand_stdin(inputs: Sequence[str]) -> Iterator[str]:
    """Replace ``-`` by the names on standard input."""
    for word in inputs:
        if word == "-":
            yield from read_names(sys.stdin.buffer)
        else:
            yield word


def _tags(songs: Iterable[SongFile]) -> dict[SongFile, dict[str, str]]:
    songs = list(songs)
    tags = for_each(lambda song: open_song(song.path).tags, songs, "reading tags", False)
    return dict(zip(songs, tags, strict=True))


def _load(
    options: argparse.Namespace, settings: PostProcessing | None
) -> tuple[SourceSeparator, list[torch.device]]:
    """Load the model to the first of the devices that are asked for."""
    import torch

    from lightning_modules.architectures.cascade import Cascade
    from lightning_modules.architectures.ensemble import Ensemble
    from lightning_modules.checkpoints.loading import load_separator
    from lightning_modules.inference.postprocessing import PostProcessor
    from lightning_modules.inference.separation import SeparationSettings
    from lightning_modules.runtime.device import check_precision, usable_devices

    given = given_settings(vars(options))
    if settings is not None:
        given["postprocessing"] = settings
    SeparationSettings(**given)  # raises before the model is loaded
    devices = usable_devices(options.device)
    check_precision(options.precision, devices)
    models: list[SourceSeparator] = [
        Cascade(options.denoiser, path) if options.denoiser else load_separator(path)
        for path in options.checkpoint
    ]
    if options.wiener is not None:
        _set_wiener(models, options)
    model = models[0]
    if len(models) > 1:
        model = Ensemble(models, combination=options.ensemble or "mean")
    model = model.to(devices[0]).eval()
    PostProcessor(settings or {}, model.sources, model.sample_rate)  # raises if unusable
    model.separation_settings = model.separation_settings.changed(**given)
    threads = options.jobs * sum(device.type == "cpu" for device in devices)
    if threads > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // threads))
    return model, devices


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
    songs: Songs, models: Sequence[SeparatingModule], at_once: int, report: Report
) -> int:
    """Separate songs and print a summary; return how many failed or are incomplete."""
    started = time.perf_counter()
    audio, number = songs.separate(models, at_once), len(songs.jobs)
    seconds, done = time.perf_counter() - started, number - songs.failed
    if audio:
        speed = f"{audio:.0f} s of audio in {seconds:.1f} s: {audio / seconds:.3g} times real time"
        report.note(f"{done} song{'s' * (done != 1)}, {speed}")
    if songs.failed:
        report.note(f"{songs.failed} of {number} songs could not be separated")
    if songs.incomplete:
        report.note(f"{songs.incomplete} of {number} songs are incomplete")
    return songs.failed + songs.incomplete


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
