"""Tables of configs in docs and README: ``python docs/make/architectures.py unet``.

For each config named, size, cost and delay come from code and config; then the config, or its
variant ``_small`` where there is one, is trained on the embedded corpus as long as it says and
scored on the test songs. What was found is kept in ``docs/architectures.json``, so that configs
can be done one by one, and the tables are written anew between their marks: all of it in
``docs/architectures.md``, the scores of the best known in the README.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules import command_line
from datamodules.markdown import markdown, read_rows, with_table, write_rows
from lightning_modules.configuration.files import CONFIGS, chain, config_names

DOCS = CONFIGS.parent / "docs"
_MAKER = "docs/make/architectures.py"
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
    "command",
)
# In the README: one of each kind, so that the table can be taken in at a glance.
_BEST_KNOWN = (
    "conv_tasnet",
    "demucs",
    "hybrid_demucs",
    "mask_unet",
    "mmdense_net",
    "nmf",
    "open_unmix",
    "roma",
    "unet",
    "wave_unet",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the configs that the command line names, and write the tables.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, 1 if a training failed, or 2 for a mistake.
    """
    parser = argparse.ArgumentParser(
        prog="python docs/make/architectures.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="*", help="configs; none writes the tables alone")
    parser.add_argument(
        "--docs",
        type=Path,
        default=DOCS,
        help="folder of table and figures; the README is beside it",
    )
    parser.add_argument("--no-training", action="store_true", help="facts alone; keep the scores")
    options = parser.parse_args(arguments)
    try:
        return command_line.run(lambda: _measure(options))
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd[1:])} ended with {error.returncode}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace) -> int:
    for name in options.configs:
        chain(name)
    docs = options.docs.resolve()
    figures = docs / "architectures.json"
    pages = {docs / "architectures.md": table, docs.parent / "README.md": ranking}
    for page in pages:
        with_table(page, _MAKER, [])  # a page without marks is told before the minutes
    rows = read_rows(figures)
    for name in options.configs:
        print(f"--- {name}", flush=True)
        row = rows.setdefault(name, {}) | facts(name)
        if not options.no_training:
            row |= train_and_score(name)
        rows[name] = row
        write_rows(figures, rows)
    for page, lines_of in pages.items():
        page.write_text(with_table(page, _MAKER, lines_of(rows)))
    return 0


def facts(name: str) -> dict[str, Any]:
    """Tell what needs no training.

    Args:
        name: The config.

    Returns:
        Paper, parameters, multiply-adds, real-time factor and latency, in JSON's types.
    """
    from model_cost import measure_model, real_time_factor

    return {
        "paper": paper(name),
        **measure_model(name)._asdict(),
        "real_time_factor": real_time_factor(name),
    }


def paper(name: str) -> str:
    """Read what a config's first line says of it.

    Args:
        name: The config.

    Returns:
        The comment.
    """
    first = chain(name)[-1].read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def train_and_score(name: str) -> dict[str, Any]:
    """Train on the embedded corpus, and score on its test songs.

    Args:
        name: The config; its variant ``small`` is trained where there is one.

    Returns:
        Seconds of training, SDR of model and mixture and the command, in JSON's types.

    Raises:
        subprocess.CalledProcessError: Training or scoring failed.
    """
    from lightning_modules.evaluation.score_files import read_folder
    from lightning_modules.evaluation.scores import aggregate

    smaller = [small for small in (f"{name}/small", f"{name}_small") if small in config_names()]
    words = ["--config", f"{smaller[0] if smaller else name}.yaml"]
    environment = dict(os.environ)
    environment.pop("MUSDB_PATH", None)  # the embedded corpus
    with tempfile.TemporaryDirectory(prefix="stemlab-architectures-") as folder:
        here = ["--run_dir", folder + "/run", "--trainer.logger=CSVLogger"]
        here += ["--trainer.accelerator=cpu", "--trainer.devices=1"]
        started = time.perf_counter()
        for step in ("fit", "test"):
            command = [sys.executable, "-m", "lightning_modules.cli", step, *words, *here]
            subprocess.run(command, check=True, cwd=CONFIGS.parent, env=environment)
            if step == "fit":
                seconds = time.perf_counter() - started
        scores = {
            kind: aggregate(read_folder(Path(folder, "run", "scores", kind, "test"))).mean("SDR")
            for kind in ("estimate", "mixture")
        }
    return {
        "training_seconds": seconds,
        "sdr": scores["estimate"],
        "mixture_sdr": scores["mixture"],
        "command": f"fit {' '.join(words)}",
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write all that is known of all configs.

    Args:
        rows: Config -> its figures.

    Returns:
        Lines of a Markdown table, a row a config.
    """
    return markdown([list(_HEADINGS), *(_cells(name, row) for name, row in sorted(rows.items()))])


def ranking(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write the scores of the best known configs, the highest first, and of the mixture.

    Args:
        rows: Config -> its figures.

    Returns:
        Lines of a Markdown table; what has no score yet is left out.
    """
    scored = {name: rows[name] for name in _BEST_KNOWN if "sdr" in rows.get(name, {})}
    lines = [["config", "trained for", "SDR"]]
    for name, row in sorted(scored.items(), key=lambda item: -item[1]["sdr"]):
        minutes = f"{row['training_seconds'] / 60:.0f} min"
        lines.append([f"[`{name}`](configs/{name}.yaml)", minutes, f"{row['sdr']:.2f} dB"])
    # One figure for all: they are scored on the same songs.
    mixtures = [row["mixture_sdr"] for row in scored.values()][:1]
    lines += [["the mixture as estimate", "", f"{mixture:.2f} dB"] for mixture in mixtures]
    return markdown(lines)


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    latency, sdr = row["latency_seconds"], row.get("sdr")
    return [
        f"`{name}`",
        row["paper"],
        f"{row['parameters']:,}",
        f"{row['multiply_adds_per_second'] / 1e9:.3g}",
        f"{row['real_time_factor']:.2g}",
        "chunk" if latency is None else f"{1000 * latency:.0f} ms",
        "-" if sdr is None else f"{row['training_seconds'] / 60:.1f} min",
        "-" if sdr is None else f"{sdr:.2f} dB",
        "-" if sdr is None else f"{row['mixture_sdr']:.2f} dB",
        f"`{row['command']}`" if sdr is not None else "",
    ]


if __name__ == "__main__":
    sys.exit(main())
