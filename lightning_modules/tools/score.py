"""Score a folder of estimates: ``python -m lightning_modules.tools.score ESTIMATES ROOT -o OUT``.

Does what museval's command line does, in several processes and resumable. ESTIMATES contains
``[{train,test}/]<track>/{vocals,drums,...}.wav`` of any system, or other formats and places, see
docs/scores.md; ROOT is a data set.
The scores of a track are written to ``OUT/<subset>/<track>.json`` in museval's schema, those of
the mixture as estimate to ``OUT/mixture/<subset>``, and other metrics also to
``OUT/<subset>_metrics.csv``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.tracks.layouts import MIXTURE, STEMS, SUBSETS, find_entries, subsets_of
from lightning_modules.evaluation.baselines import constant_gain_summaries
from lightning_modules.evaluation.estimates import Settings
from lightning_modules.evaluation.metrics import METRICS, check_names
from lightning_modules.evaluation.scorer import Scorer
from lightning_modules.evaluation.scores import TrackScores, aggregate
from lightning_modules.evaluation.table import metric_table, score_table
from lightning_modules.runtime.process_pool import available_cores

_MAX_PROCESSES = 4  # by default, because each holds a whole song with all its stems
_MIN_SECONDS = 0.001


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the tracks; return the exit status described by ``--help``, or 130 after Ctrl-C."""
    parser = build_parser()
    options = parser.parse_intermixed_args(arguments)
    if len(options.folders) != (1 if options.oracle else 2):
        parser.error("give ESTIMATES and ROOT, or --oracle NAME and only ROOT")
    lengths = options.window_seconds, options.hop_seconds
    settings = Settings(tuple(options.stems), options.accompaniment, *lengths)
    scorer = Scorer(settings, options.processes, options.overwrite, options.metrics)
    return command_line.run(
        lambda: _score(scorer, options),
        f"stopped; the scores in {options.output} are kept, the same command resumes",
    )


def _score(scorer: Scorer, options: argparse.Namespace) -> int:
    tables = _tables(scorer, options)
    if tables:
        print(tables)
    for name, reason in scorer.left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    if not tables:
        return 2
    return 1 if scorer.left_out else 0


def _tables(scorer: Scorer, options: argparse.Namespace) -> str:
    """Score, write the files and return the tables; nothing if no track could be scored."""
    command_line.check_folder(options.output, "-o")
    check_names(options.metrics)
    *estimates, root = options.folders
    present = subsets_of(root, options.stems)
    if options.subset not in present:
        raise DataError(f"{root}: has no {options.subset} tracks; give --subset {present[0]}")
    entries = find_entries(root, options.subset, options.stems)
    if estimates:
        files = scorer.find_estimates(estimates[0], entries)
        found = [entry for entry in entries if entry.name in files]
        tracks = scorer.load(found, options.missing_as_silence)
        scores = scorer.score_estimates(tracks, files, options.output)
    else:
        _check_oracle(options.oracle)
        tracks = scorer.load(entries, options.missing_as_silence)
        settings = scorer.settings
        targets = settings.targets if settings.accompaniment else settings.stems
        same = dict.fromkeys((track.name for track in tracks), targets)
        scores = scorer.score_oracle(tracks, options.oracle, same, options.output)
    if not scores:
        return ""
    baseline: list[TrackScores] = []
    if options.mixture:
        scored = {track.name: tuple(track.frames) for track in scores}
        tracks = [track for track in tracks if track.name in scored]
        baseline = scorer.score_oracle(tracks, MIXTURE, scored, options.output / MIXTURE)
    title = f"{estimates[0] if estimates else options.oracle} on {root}, {options.subset}"
    mixture = aggregate(baseline) if options.mixture else None
    text = score_table(aggregate(scores), mixture, title, constant_gain_summaries(baseline))
    if options.metrics:
        _write_csv(options, scores, baseline)
        text += "\n\n" + metric_table(scores, options.metrics, baseline)
    return text


def _write_csv(
    options: argparse.Namespace, scores: Sequence[TrackScores], baseline: Sequence[TrackScores]
) -> None:
    """Write a row per track and source, a column per metric, and one of the mixture's."""
    mixture = {track.name: track for track in baseline}
    kinds = ("", "mixture_") if baseline else ("",)
    header = ["track", "source", *(f"{kind}{name}" for kind in kinds for name in options.metrics)]
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / f"{options.subset}_metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for track in scores:
            shown = [track, *([mixture[track.name]] if track.name in mixture else [])]
            for source in track.frames:
                values = [each.metrics[name][source] for each in shown for name in options.metrics]
                writer.writerow([track.name, source, *values])


def _check_oracle(name: str) -> None:
    if name == MIXTURE:
        return
    command_line.announce("Loading the oracles...")
    from lightning_modules.evaluation.oracles import ORACLES

    if name not in ORACLES:
        raise ValueError(f"--oracle {name}: unknown oracle; known are {', '.join(ORACLES)}")


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser(
        "lightning_modules.tools.score",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s ESTIMATES ROOT -o OUT [options]\n"
        "       %(prog)s --oracle NAME ROOT -o OUT [options]",
        epilog="metrics:\n"
        + "".join(f"  {name:10} {metric.description}\n" for name, metric in METRICS.items())
        + "\nExit status: 0; 1 if tracks were left out, named in the last lines; 2 if all were, or "
        "for a\nmistake. After Ctrl-C the same command resumes.",
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="estimates (<track>/vocals.wav, ...), then data set")
    add("-o", "--output", required=True, type=Path, help="folder for the score files")
    add("--subset", choices=SUBSETS, default="test", help="by default test")
    add("--stems", nargs="+", default=list(STEMS), metavar="STEM", help="stems of the data set")
    add("--missing_as_silence", action="store_true", help="stems without a file are silent")
    add("--oracle", metavar="NAME", help="score the estimates of an oracle, such as irm2")
    add("--mixture", action="store_true", help="compare with the mixture as estimate")
    metrics = "compute other metrics besides BSS Eval, listed below"
    add("--metrics", nargs="+", default=[], metavar="NAME", help=metrics)
    add(
        "--accompaniment",
        action=argparse.BooleanOptionalAction,
        help="score accompaniment always, summed if it has no file, or never; by default if it "
        "has a file (it changes the scores of vocals: see docs/scores.md)",
    )
    add("--window-seconds", type=_seconds, default=1.0, help="length of a frame, by default 1")
    add("--hop-seconds", type=_seconds, default=1.0, help="distance of frames, by default 1")
    processes = min(_MAX_PROCESSES, available_cores())
    limit = "by default one per core, at most four"
    add("--processes", type=command_line.count(), default=processes, help=limit)
    add("--overwrite", action="store_true", help="replace existing scores")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not _MIN_SECONDS <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {_MIN_SECONDS} s or more, found {text}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
