"""Compare systems: ``python -m lightning_modules.tools.compare RUN...``.

RUN is a run's directory, a folder of score files in museval's JSON, or runs of Weights & Biases;
``NAME=RUN`` gives it a name. Shows the median SDR over tracks for each source and tests paired
differences. ``--all`` adds the other metrics, means and quartiles, and the settings in which the
runs' configs differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from datamodules import command_line
from lightning_modules.comparison import data_files, tables
from lightning_modules.comparison.pairs import Pair, pairs
from lightning_modules.comparison.reading import (
    CompareError,
    disambiguate_names,
    read_run,
    split_name,
    unify_track_names,
)
from lightning_modules.comparison.systems import (
    ALL_METRICS,
    Run,
    System,
    at_constant_gains,
    drop_near_silent,
    keep_tracks,
    mixture_of,
    pool,
)
from lightning_modules.comparison.table import Table

_WANDB = "wandb:"
_FORMATS = ("text", "markdown", "latex", "csv", "json")
# File names of the plots.
_FIGURES = ("scores", "improvement", "tracks", "curves")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare runs; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    _check_outputs(options)
    comparison = _compare(options)
    if not options.output:
        print(_formatted(comparison, options.format).rstrip("\n"))
    for place in _write(comparison, options):
        print(f"wrote {place}", file=sys.stderr)
    return 0


@dataclass
class Comparison:
    """Results of a comparison of systems and bounds; remarks are lines below the tables."""

    systems: list[System]
    metrics: list[str]
    tables: list[Table]
    pairs: list[Pair]
    remarks: list[str]


def _compare(options: argparse.Namespace) -> Comparison:
    systems = _systems(options)
    metrics = tables.metrics_of(systems)
    if options.metrics:
        metrics = [metric for metric in metrics if metric in options.metrics]
        if not metrics:
            raise CompareError(f"--metrics {' '.join(options.metrics)}: no run has such scores")
    sources = tables.sources_of(systems)
    tested = {
        metric: [p for source in sources for p in pairs(systems, metric, source)]
        for metric in metrics
    }
    first = metrics if options.all or options.metrics else metrics[:1]
    shown = [tables.overview(systems, metric) for metric in first]
    if options.all:
        shown += [tables.statistics(systems, metric) for metric in metrics]
    shown += [
        tables.paired(tested[metric])
        for metric in first
        if any(pair.difference.tracks > 1 for pair in tested[metric])
    ]
    if options.all and (differing := tables.settings(systems)):
        shown.append(differing)
    together = [pair for found in tested.values() for pair in found]
    remarks = [*tables.too_few_tracks(together), *tables.remarks(systems)]
    return Comparison(systems, metrics, shown, together, remarks)


def _systems(options: argparse.Namespace) -> list[System]:
    runs = [run for given in options.runs for run in _read(given, options.subset)]
    bounds = [read_run(given, options.subset) for given in options.bounds]
    mixture = read_run(options.mixture, options.subset) if options.mixture else None
    everything = [*runs, *bounds, *([mixture] if mixture else [])]
    disambiguate_names(everything)
    unify_track_names(everything)
    if options.without_near_silent:
        drop_near_silent(everything)
    if mixture:
        for run in runs:
            run.mixture = mixture.tracks
    systems = pool(runs) if options.pool else [System(run.name, [run]) for run in runs]
    baseline = System(mixture.name, [mixture], bound=True) if mixture else mixture_of(systems)
    systems += [System(run.name, [run], bound=True) for run in bounds]
    if baseline:
        if any(system.name == baseline.name for system in systems):
            baseline.name = f"{baseline.name} as estimate"
        systems += [baseline, *at_constant_gains(baseline)]
    if options.common_tracks:
        scored = [system.track_names for system in systems if system.runs[0].tracks]
        common = set.intersection(*scored) if scored else set()
        if not common:
            raise CompareError("--common-tracks: no track has scores of all systems")
        keep_tracks(systems, common)
    return systems


def _read(given: str, subset: str) -> list[Run]:
    if not split_name(given)[1].startswith(_WANDB):
        return [read_run(given, subset)]
    from lightning_modules.comparison.wandb_runs import read_wandb

    return read_wandb(given, subset)


# ----------------------------------------------------------------------- output


def _formatted(comparison: Comparison, form: str) -> str:
    """The comparison in a format; as CSV only the statistics."""
    shown, remarks = comparison.tables, comparison.remarks
    if form == "markdown":
        lines = "".join(f"- {line}\n" for line in remarks)
        return "\n".join(filter(None, [*(table.markdown() for table in shown), lines]))
    if form == "latex":
        lines = "".join(f"% {line}\n" for line in ["needs \\usepackage{booktabs}", *remarks])
        return "\n".join([*(table.latex() for table in shown), lines])
    if form == "csv":
        return data_files.as_csv(_statistics(comparison))
    if form == "json":
        pairs = data_files.pair_rows(comparison.pairs)
        return data_files.as_json(statistics=_statistics(comparison), pairs=pairs, remarks=remarks)
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    parts = [*(table.text(bold) for table in shown), "\n".join(remarks)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _statistics(comparison: Comparison) -> list[dict[str, object]]:
    return [
        row
        for metric in comparison.metrics
        for source in tables.sources_of(comparison.systems)
        for row in data_files.statistics_rows(comparison.systems, metric, source)
    ]


def _outputs(options: argparse.Namespace) -> list[Path]:
    found = [options.output] if options.output else []
    found += [_pairs_file(options.output)] if options.output and options.format == "csv" else []
    if options.figures:
        suffixes = options.figure_format
        found += [options.figures / f"{name}.{one}" for name in _FIGURES for one in suffixes]
    return found


def _pairs_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}_pairs{path.suffix}")


def _check_outputs(options: argparse.Namespace) -> None:
    if options.output:
        command_line.check_file(options.output, "--output")
    if options.figures:
        command_line.check_folder(options.figures, "--figures")
    for path in _outputs(options):
        command_line.check_free(path, options.force)


def _write(comparison: Comparison, options: argparse.Namespace) -> list[Path | str]:
    """Write the requested outputs; return the files and the location of the W&B run."""
    texts: dict[Path, str] = {}
    pairs = data_files.pair_rows(comparison.pairs)
    if options.output:
        texts[options.output] = _formatted(comparison, options.format)
        if options.format == "csv" and pairs:
            texts[_pairs_file(options.output)] = data_files.as_csv(pairs)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    written: list[Path | str] = list(texts)
    if not options.figures and not options.wandb:
        return written

    # They take a second to import.
    from lightning_modules.comparison.figures import figures
    from lightning_modules.plots import style

    drawn = figures(comparison.systems, comparison.metrics)
    if options.figures:
        for name, suffix in product(drawn, options.figure_format):
            written.append(path := options.figures / f"{name}.{suffix}")
            style.save(drawn[name], path)
    if options.wandb:
        from lightning_modules.comparison.wandb_runs import publish

        rows = {"statistics": _statistics(comparison), "pairs": pairs}
        written.append(publish(options.wandb_project, rows, drawn))
    return written


# ----------------------------------------------------------------------- command line


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser(
        "lightning_modules.tools.compare", epilog="Exit status: 0, or 2 for a mistake."
    )
    add = parser.add_argument
    runs = "run directories, folders of museval JSON, or wandb:entity/project?group=..."
    add("runs", nargs="+", metavar="[NAME=]RUN", help=runs)
    add("--mixture", metavar="FOLDER", help="scores of the mixture; by default those of the runs")
    bounds = "scores to show as bounds, such as those of an ideal mask"
    add("--bounds", nargs="+", default=[], metavar="[NAME=]FOLDER", help=bounds)
    add("--subset", choices=("test", "val"), default="test", help="by default test")
    metrics = f"of {', '.join(ALL_METRICS)}"
    add("--metrics", nargs="+", choices=ALL_METRICS, metavar="METRIC", help=metrics)
    add("--common-tracks", action="store_true", help="only tracks that all systems have scores of")
    silent = "without sources of tracks whose references are nearly silent"
    add("--without-near-silent", action="store_true", help=silent)
    pooled = "pool runs whose configs differ only by seeds, paths and loggers (default)"
    add("--pool", action=argparse.BooleanOptionalAction, default=True, help=pooled)
    add("--all", action="store_true", help="show all metrics, statistics and differing settings")
    formats = "of what is printed; csv and json have all statistics, json also the pairs"
    add("--format", choices=_FORMATS, default="text", help=formats)
    output = "write it to a file; csv writes the pairs to FILE_pairs.csv"
    add("-o", "--output", type=Path, metavar="FILE", help=output)
    add("--figures", type=Path, metavar="FOLDER", help=f"draw {', '.join(_FIGURES)}")
    kinds = ("png", "svg")
    add("--figure-format", nargs="+", choices=kinds, default=["png"], help="by default png")
    add("--wandb", action="store_true", help="log tables and plots as a run of W&B")
    project = "its project, by default stemlab"
    add("--wandb-project", default="stemlab", metavar="NAME", help=project)
    add("--force", action="store_true", help="overwrite existing files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
