"""Score a folder of estimates: ``python -m lightning_modules.tools.score ESTIMATES ROOT -o OUT``.

What museval's command line does, in several processes and resumable. ESTIMATES holds
``[{train,test}/]<track>/{vocals,drums,...}.{wav,flac,ogg}``, made by any system; ROOT is a data
set. The scores of a track go to ``OUT/<subset>/<track>.json`` in museval's schema, those of the
mixture as estimate to ``OUT/mixture/<subset>``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError
from datamodules.tracks.layouts import MIXTURE, STEMS, SUBSETS, Entry, find_entries, subsets_of
from lightning_modules.evaluation.estimates import Settings
from lightning_modules.evaluation.scorer import Scorer
from lightning_modules.evaluation.scores import aggregate
from lightning_modules.evaluation.table import score_table
from lightning_modules.runtime.process_pool import available_cores

_MOST_PROCESSES = 4  # by default, as each holds a whole song with all its stems
_SHORTEST_SECONDS = 0.001


def main(arguments: Sequence[str] | None = None) -> int:
    """Score what the command line names.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 if a track was left out, 2 for a mistake that the message on stderr
        explains, 130 after Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if len(options.folders) != (1 if options.oracle else 2):
        parser.error("give ESTIMATES and ROOT, or --oracle NAME and ROOT alone")
    scorer = Scorer(
        Settings(
            tuple(options.stems),
            options.accompaniment,
            options.window_seconds,
            options.hop_seconds,
        ),
        options.processes,
        options.overwrite,
    )
    return command_line.run(
        lambda: _score(scorer, options),
        f"stopped; the scores in {options.output} stay, the same command goes on from them",
    )


def _score(scorer: Scorer, options: argparse.Namespace) -> int:
    """Score, write and print the table."""
    print(_table(scorer, options))
    for name, reason in scorer.left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return 1 if scorer.left_out else 0


def _table(scorer: Scorer, options: argparse.Namespace) -> str:
    """Score and write; return the table."""
    command_line.check_folder(options.output, "-o")
    *estimates, root = options.folders
    entries = _entries(root, options.subset, options.stems)
    if estimates:
        folders = scorer.find_estimates(estimates[0], entries)
        tracks = scorer.load([entry for entry in entries if entry.name in folders])
        scores = scorer.score_estimates(tracks, folders, options.output)
    else:
        _check_oracle(options.oracle)
        settings = scorer.settings
        tracks = scorer.load(entries)
        targets = settings.targets if settings.accompaniment else settings.stems
        same = dict.fromkeys((track.name for track in tracks), targets)
        scores = scorer.score_oracle(tracks, options.oracle, same, options.output)
    baseline = None
    if options.mixture:
        scored = {track.name: tuple(track.frames) for track in scores}
        tracks = [track for track in tracks if track.name in scored]
        baseline = aggregate(scorer.score_oracle(tracks, MIXTURE, scored, options.output / MIXTURE))
    title = f"{estimates[0] if estimates else options.oracle} on {root}, {options.subset}"
    return score_table(aggregate(scores), baseline, title)


def _entries(root: Path, subset: str, stems: Sequence[str]) -> list[Entry]:
    present = subsets_of(root, stems)
    if subset not in present:
        raise DataError(f"{root}: has no {subset} tracks; give --subset {present[0]}")
    return find_entries(root, subset, stems)


def _check_oracle(name: str) -> None:
    if name == MIXTURE:
        return
    from lightning_modules.evaluation.oracles import ORACLES

    if name not in ORACLES:
        raise ValueError(f"--oracle {name}: unknown; known are {', '.join(ORACLES)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.tools.score",
        usage="%(prog)s ESTIMATES ROOT -o OUT [options]\n"
        "       %(prog)s --oracle NAME ROOT -o OUT [options]",
        epilog="Exit status: 0; 1 if tracks were left out, which the last lines name; 2 for a "
        "mistake. After Ctrl-C the same command goes on from what was written.",
    )
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="estimates (<track>/vocals.wav, ...), then data set")
    add("-o", "--output", required=True, type=Path, help="folder for the score files")
    add("--subset", choices=SUBSETS, default="test", help="by default test")
    add("--stems", nargs="+", default=list(STEMS), metavar="STEM", help="stems of the data set")
    add("--oracle", metavar="NAME", help="score the estimates of an oracle, such as irm2")
    add("--mixture", action="store_true", help="compare with the mixture taken as estimate")
    add(
        "--accompaniment",
        action=argparse.BooleanOptionalAction,
        help="score accompaniment even where it must be summed, or never; by default where it "
        "has a file (it moves the figures of vocals: see docs/scores.md)",
    )
    add("--window-seconds", type=_seconds, default=1.0, help="length of a frame, by default 1")
    add("--hop-seconds", type=_seconds, default=1.0, help="from frame to frame, by default 1")
    add(
        "--processes",
        type=command_line.count(),
        default=min(_MOST_PROCESSES, available_cores()),
        help="by default one a core, at most four",
    )
    add("--overwrite", action="store_true", help="score tracks again that have scores")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not _SHORTEST_SECONDS <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {_SHORTEST_SECONDS} s or more, found {text}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
