"""Learning curves of the docs: ``python docs/make/evidence.py --songs DIR mask_unet openunmix``.

Trains the small variant of each config on the songs of ``DIR/train`` and scores it on those of
``DIR/test`` after given processor minutes. Besides configs there are ``openunmix``, the package's
networks and recipe; ``open_unmix, package sizes``, the same networks trained here; and
``baselines``. Results are kept in ``docs/evidence.json``, so curves can be measured one at a time;
the table and the picture of ``docs/evidence.md`` follow.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

import open_unmix_recipe
from datamodules import command_line
from datamodules.errors import DataError
from datamodules.markdown import markdown
from datamodules.musdb import MUSDBDataModule
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import STEMS
from datamodules.tracks.sources import SourceGrouping
from learning_curve import Points, mean_over_sources, score
from lightning_modules import cli
from lightning_modules.configuration.files import CONFIGS, config_names
from lightning_modules.evaluation.baselines import best_gain
from lightning_modules.evaluation.scores import usdr
from lightning_modules.plots import style
from lightning_modules.runtime.memory import reuse_freed_memory
from table_pages import Rows, parser, update

SCRIPT = "docs/make/evidence.py"
PACKAGE, SAME_NETWORK, BASELINES = "openunmix", "open_unmix as openunmix", "baselines"
_SAME_NETWORK = [
    "--config", "open_unmix.yaml", "--model.init_args.hidden_size=256",
    "--data.init_args.segment_seconds=3", "--data.init_args.batch_size=8",
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure curves, and write the table and the picture.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake.
    """
    command = parser(SCRIPT, __doc__)
    command.add_argument("--songs", type=Path, help="data set with the folders train and test")
    command.add_argument(
        "--minutes", type=float, nargs="+", default=[1, 2, 5, 10, 20], metavar="M",
        help="processor minutes after which to score (default 1 2 5 10 20)",
    )  # fmt: skip
    options = command.parse_args(arguments)
    reuse_freed_memory()  # for the package, too
    return command_line.run(lambda: _update(options))


def _update(options: argparse.Namespace) -> int:
    if options.configs and options.songs is None:
        raise DataError("measuring needs songs: give --songs, a folder with train and test")
    docs = options.docs.resolve()

    def measure(name: str, known: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="stemlab-evidence-") as folder:
            root = _linked(options.songs.resolve(), Path(folder, "songs"))
            if name == BASELINES:
                return {"baselines": baselines(root)}
            file = Path(folder, "points.json")
            if name == PACKAGE:
                train_package(root, options.minutes, file)
            else:
                fit(words_of(name), root, options.minutes, file)
            return {"points": json.loads(file.read_text())} | _circumstances(name)

    pages = {docs / "evidence.md": table}
    file = docs / "evidence.json"
    others = (PACKAGE, SAME_NETWORK, BASELINES)
    update(SCRIPT, options.configs, file, pages, measure, others)
    style.save(curves_figure(json.loads(file.read_text())), docs / "pictures" / "evidence.png")
    return 0


def _linked(songs: Path, root: Path) -> Path:
    """A data set of the same songs with test tracks as validation: all others are trained on."""
    for name, source in {"train": "train", "valid": "test", "test": "test"}.items():
        if not (songs / source).is_dir():
            raise DataError(f"{songs}: has no folder {source}; --songs needs train and test")
        root.mkdir(exist_ok=True)
        (root / name).symlink_to(songs / source)
    return root


def _circumstances(name: str) -> dict[str, Any]:
    commit = ["git", "-C", str(CONFIGS.parent), "rev-parse", "--short", "HEAD"]
    return {
        "command": "" if name == PACKAGE else f"fit {' '.join(words_of(name))}",
        "date": date.today().isoformat(),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
    }


def words_of(name: str) -> list[str]:
    """Arguments of `fit` for the curve of a name."""
    if name == SAME_NETWORK:
        return _SAME_NETWORK
    small = f"{name}/small"
    return ["--config", f"{small if small in config_names() else name}.yaml"]


def fit(words: Sequence[str], root: Path, minutes: Sequence[float], file: Path) -> None:
    """Train until the last point of a curve, in this process.

    Args:
        words: Arguments of `fit`.
        root: Data set with ``train``, ``valid`` and ``test``.
        minutes: Processor minutes of the points.
        file: JSON file of the points.

    Raises:
        DataError: The training failed; it has printed why.
    """
    curve = {"minutes": list(minutes), "file": str(file)}
    callback = {"class_path": "learning_curve.LearningCurve", "init_args": curve}
    run = {
        "run_dir": file.parent / "run", "data.init_args.root": root,
        "data.init_args.num_workers": 0, "trainer.accelerator": "cpu", "trainer.devices": 1,
        "trainer.logger": "CSVLogger", "trainer.limit_val_batches": 0,
        "trainer.check_val_every_n_epoch": 1_000_000,  # EarlyStopping would miss val/loss
        "trainer.max_epochs": 1_000_000, "trainer.callbacks+": json.dumps(callback),
    }  # fmt: skip
    if status := cli.main(["fit", *words, *(f"--{key}={value}" for key, value in run.items())]):
        raise DataError(f"fit {' '.join(words)} ended with {status}")


def train_package(root: Path, minutes: Sequence[float], file: Path) -> None:
    """Train with the recipe of the package ``openunmix``; arguments as for `fit`."""
    recipe = open_unmix_recipe.OpenUnmixRecipe(root / "train")
    tracks, sources = _test_tracks(root)
    points = Points(minutes, file)
    recipe.train(points, lambda: score(tracks, sources, recipe.separate))


def baselines(root: Path) -> dict[str, dict[str, float]]:
    """Mean uSDR of the mixture at constant gains over the test tracks: gain -> source -> dB."""
    tracks, sources = _test_tracks(root)
    rows: dict[str, list[Any]] = {"mixture": [], "mixture/4": [], "best gain": []}
    for track in tracks:
        batch = sources.read(track)
        mixture, targets = batch.mixture.numpy(), batch.targets.numpy()
        best = [best_gain(target, mixture) for target in targets]
        for name, gains in zip(rows, ([1.0] * 4, [0.25] * 4, best), strict=True):
            rows[name].append(usdr(targets, np.stack([gain * mixture for gain in gains])))
    return {
        name: dict(zip(STEMS, np.nanmean(found, 0).tolist(), strict=True))
        for name, found in rows.items()
    }


def _test_tracks(root: Path) -> tuple[list[Track], SourceGrouping]:
    data = MUSDBDataModule(root=str(root))
    data.setup("test")
    return data.test_tracks, data.grouping


def table(rows: Rows) -> list[str]:
    """Format all results, best last point first, as lines of Markdown."""
    curves = {name: _means(row) for name, row in rows.items() if name != BASELINES}
    minutes = sorted({each for curve in curves.values() for each in curve})
    lines = [["model", *(f"{each:g} min" for each in minutes), "steps", "command"]]
    best = {each: max(curve.get(each, -math.inf) for curve in curves.values()) for each in minutes}
    for name, curve in sorted(curves.items(), key=lambda item: -item[1][max(item[1])]):
        cells = [
            ("**{:.2f}**" if curve[each] == best[each] else "{:.2f}").format(curve[each])
            if each in curve
            else "-"
            for each in minutes
        ]
        last, command = rows[name]["points"][-1]["steps"], rows[name]["command"]
        lines.append([f"`{name}`", *cells, f"{last:,}", f"`{command}`" if command else "its own"])
    for name, scores in rows.get(BASELINES, {}).get("baselines", {}).items():
        lines.append([name, *[f"{mean_over_sources(scores):.2f}"] * len(minutes), "-", ""])
    return markdown(lines)


def _means(row: Mapping[str, Any]) -> dict[float, float]:
    """Minutes -> mean over the sources."""
    return {point["minutes"]: mean_over_sources(point["usdr"]) for point in row["points"]}


def curves_figure(rows: Rows) -> Figure:
    """Draw all curves; the package and the same network here are drawn heavily."""
    figure = style.new_figure("SDR on a real song over the processor time of training", 5.5)
    axes = figure.subplots()
    names = [name for name in rows if name != BASELINES]
    names.sort(key=lambda name: -list(_means(rows[name]).values())[-1])
    colours = style.colours_of([name for name in names if name != PACKAGE])
    for number, name in enumerate(names):
        curve = _means(rows[name])
        axes.plot(
            list(curve), list(curve.values()), ("-", "--", ":")[number // 7 % 3], label=name,
            color=colours.get(name, "black"), marker="o", markersize=4,
            linewidth=2.5 if name in (PACKAGE, SAME_NETWORK) else 1.5,
        )  # fmt: skip
    for name, scores in rows.get(BASELINES, {}).get("baselines", {}).items():
        level = mean_over_sources(scores)
        if name != "mixture":  # far below all others
            axes.axhline(level, color=style.BASELINE_COLOUR, linestyle=":", linewidth=1)
            axes.annotate(name, (1, level), xytext=(2, 3), textcoords="offset points", color="0.4")
    axes.set_xscale("log")
    minutes = sorted({each for name in names for each in _means(rows[name])})
    axes.xaxis.set_major_locator(FixedLocator(minutes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{each:g}" for each in minutes])
    axes.set_xlabel("processor minutes")
    axes.set_ylabel("uSDR, mean over the sources (dB)")
    style.frame(axes, "both")
    figure.legend(loc="outside right center", frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
