"""Table of configs in the docs: ``python docs/make/architectures.py unet``.

Measures each config's size, cost and latency, trains it on the demo corpus for as long as the
config says (or its variant ``small``, if there is one) and scores it on the test songs. Results are
kept in ``docs/architectures.json``, so configs can be measured one at a time; the table of
``docs/architectures.md`` follows.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import command_line
from datamodules.demo.corpus import VERSION
from datamodules.markdown import markdown
from lightning_modules import cli
from lightning_modules.configuration.files import chain, config_names
from table_pages import Rows, parser, update

SCRIPT = "docs/make/architectures.py"
_HEADINGS = (
    "config",
    "paper",
    "parameters",
    "GMAC/s",
    "real-time factor",
    "latency",
    "training",
    "SDR",
    "mixture",
    "mixture/S",
    "best gain",
    "corpus",
    "command",
)


_FIRST_CORPUS = 1  # version of the demo corpus of rows that do not name it


class TrainingError(RuntimeError):
    """`fit` or `test` failed; it has printed why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure configs and write the tables.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 if a training failed, or 2 for a mistake.
    """
    command = parser(SCRIPT, __doc__)
    command.add_argument("--no-training", action="store_true", help="keep the scores")
    options = command.parse_args(arguments)
    return command_line.run(lambda: _update(options))


def _update(options: argparse.Namespace) -> int:
    def measure(name: str, known: dict[str, Any]) -> dict[str, Any]:
        row = known | cost(name)
        return row if options.no_training else row | train_and_score(name)

    docs = options.docs.resolve()
    pages = {docs / "architectures.md": table}
    try:
        update(SCRIPT, options.configs, docs / "architectures.json", pages, measure)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def cost(name: str) -> dict[str, Any]:
    """What needs no training: paper, parameters, multiply-adds, real-time factor, latency."""
    from model_cost import measure_model, real_time_factor

    first = chain(name)[-1].read_text(encoding="utf-8").partition("\n")[0]
    measured = measure_model(name)
    return {
        "paper": first.removeprefix("#").strip() if first.startswith("#") else "",
        **measured._asdict(),
        "real_time_factor": real_time_factor(name, measured.multiply_adds_per_second),
    }


def train_and_score(name: str) -> dict[str, Any]:
    """Train a config, or its small variant, on the demo corpus and score it.

    Args:
        name: The config.

    Returns:
        Processor seconds of training, SDR of model, mixture and constant gains, the command, and
        the version of the corpus.

    Raises:
        TrainingError: Training or scoring failed.
    """
    from lightning_modules.evaluation.baselines import constant_gain_summaries
    from lightning_modules.evaluation.score_files import read_folder
    from lightning_modules.evaluation.scores import aggregate

    name = name.removesuffix(".yaml")
    smaller = [small for small in (f"{name}/small", f"{name}_small") if small in config_names()]
    words = ["--config", f"{[*smaller, name][0]}.yaml"]
    os.environ.pop("MUSDB_PATH", None)  # selects the demo corpus
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="stemlab-architectures-") as folder:
        run = ["--run_dir", folder + "/run", "--trainer.logger=CSVLogger"]
        run += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
        for step in ("fit", "test"):
            started = _processor_seconds()
            if status := cli.main([step, *words, *run]):
                raise TrainingError(f"{' '.join([step, *words])} ended with {status}")
            seconds[step] = _processor_seconds() - started
        estimate, mixture = (
            read_folder(Path(folder, "run", "scores", kind, "test"))
            for kind in ("estimate", "mixture")
        )
    return {
        "training_seconds": seconds["fit"],
        "sdr": aggregate(estimate).mean("SDR"),
        "mixture_sdr": aggregate(mixture).mean("SDR"),
        "constant_gain_sdr": {
            name: summary.mean("SDR") for name, summary in constant_gain_summaries(mixture).items()
        },
        "command": f"fit {' '.join(words)}",
        "corpus": VERSION,
    }


def _processor_seconds() -> float:
    """Processor time of this process and its ended children, which other work hardly changes."""
    return sum(os.times()[:4])


def table(rows: Rows) -> list[str]:
    """Format all results, one row per config, as lines of Markdown."""
    return markdown([list(_HEADINGS), *(_cells(name, row) for name, row in sorted(rows.items()))])


def _constant_gains(row: Mapping[str, Any]) -> Mapping[str, float]:
    """SDR of the mixture at constant gains: that of 1 / S, if there are several sources, first."""
    found: Mapping[str, float] = row.get("constant_gain_sdr", {})
    return found


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    latency, sdr = row["latency_seconds"], row.get("sdr")
    gains = {name.partition("/")[0]: value for name, value in _constant_gains(row).items()}
    # Marked if it is no better than a constant.
    mark = " †" if sdr is not None and sdr <= gains.get("mixture", -math.inf) else ""
    return [
        f"`{name}`",
        row["paper"],
        f"{row['parameters']:,}",
        f"{row['multiply_adds_per_second'] / 1e9:.3g}",
        f"{row['real_time_factor']:.2g}",
        "chunk" if latency is None else f"{1000 * latency:.0f} ms",
        "-" if sdr is None else f"{row['training_seconds'] / 60:.1f} min",
        "-" if sdr is None else f"{sdr:.2f} dB{mark}",
        "-" if sdr is None else f"{row['mixture_sdr']:.2f} dB",
        *(f"{gains[name]:.2f} dB" if name in gains else "-" for name in ("mixture", "best gain")),
        "-" if sdr is None else str(row.get("corpus", _FIRST_CORPUS)),
        f"`{row['command']}`" if sdr is not None else "",
    ]


if __name__ == "__main__":
    sys.exit(main())
