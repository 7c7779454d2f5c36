"""Everything that needs a GPU, in one command of limited time: steps, data, fit and scoring.

Runs other benchmarks and short trainings one after the other, each in its own process: large matrix
products first, then training steps of each family in bf16 and fp16, plain and compiled, beside
other packages; batches to the device; a training, with FSDP too, and its resumption; the share of
scoring in an epoch. A part that takes too long is stopped, what a part leaves of its time goes to
the next ones, and finished results are kept. On a CPU the models are small.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from datamodules.errors import DataError
from datamodules.markdown import markdown
from lightning_modules.benchmark import epoch, scorer, timing, transfer
from lightning_modules.runtime.device import usable_device
from lightning_modules.version import version

# Config, other package, batch size and seconds of an example, as an H200 holds them in bf16.
_FAMILIES = (
    ("bs_roformer/medium", "bs_roformer", 8, 8.0),
    ("mel_band_roformer/medium", "mel_band_roformer", 8, 8.0),
    ("bs_roformer", "", 4, 8.0),
    ("htdemucs", "htdemucs", 8, 7.8),
    ("scnet", "scnet", 4, 11.0),
    ("tfc_tdf", "mdx23c", 4, 5.92),
    ("bsrnn", "", 4, 3.0),
    ("open_unmix", "openunmix", 16, 6.0),
    ("demucs", "demucs", 16, 6.0),
    ("conv_tasnet", "", 8, 4.0),
    ("wave_unet", "", 16, 6.7),
    ("unet", "", 8, 6.0),
    ("mmdense_lstm", "", 8, 6.0),
)
_CPU_FAMILIES = (("unet/small", "", 1, 0.5), ("scnet/tiny", "", 1, 0.5))
_FIT_COLUMNS = ("train/examples_per_second", "train/data_wait", "train/gpu_memory_gb")
# Side of the matrices of the products, by type of device.
_SIDES = {"cuda": 8192, "cpu": 512}
_STEP, _FIT = "step ", "fit "
_TABLES = {"transfer": transfer.table, "epoch": epoch.table, "scorer": scorer.table}


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes:
        name: Its name; parts with the first word ``step`` have rows of training steps.
        weight: Its share of the time, relative to the others.
        commands: Words after ``python -m lightning_modules.``, one or more commands.
    """

    name: str
    weight: float
    commands: Sequence[Sequence[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--seconds", type=float, default=420.0, help="for all parts (default 420)")
    parser.add_argument("--device", help="cuda or cpu; by default a GPU if there is one")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="parts to run, by their first words, such as step"
    )


def check(options: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        DataError: A number is not positive, there is no such part, or the device cannot be used.
    """
    timing.check_positive(options, "seconds")
    options.device = str(usable_device(options.device))
    names = [part.name for part in parts(options.device, Path())]
    for start in options.only or ():
        if not any(name.startswith(start) for name in names):
            raise DataError(f"--only {start}: there is no such part; there are {', '.join(names)}")


def parts(device: str, folder: Path) -> list[Part]:
    """List all parts for a device, the most important first; trainings write to the folder."""
    gpu = torch.device(device).type == "cuda"
    families = _FAMILIES if gpu else _CPU_FAMILIES
    compiled = ["--also", "model.init_args.compiled=true"]
    found = [_step(device, family, "bf16-mixed") for family in families]
    found += [
        _step(device, (name, "", *sizes), "bf16-mixed", *compiled)
        for name, peer, *sizes in families
        if peer and gpu
    ]
    seconds = "3" if gpu else "0.5"
    words = ["tools.benchmark", "transfer", "--device", device, "--seconds", seconds]
    found += [Part("transfer", 2.0, [words]), _fit(gpu, "auto", folder)]
    if gpu:
        found.append(_fit(gpu, "fsdp", folder))
        found += [_step(device, family, "16-mixed") for family in families if family[1]]
    words = ["tools.benchmark", "epoch", "--epochs", "3", "--examples", "64" if gpu else "8"]
    found.append(Part("epoch", 3.0, [words]))
    words = ["tools.benchmark", "scorer", "--seconds", "10", "--repeats", "1"]
    return [*found, Part("scorer", 1.0, [words])]


def _step(device: str, family: Sequence[Any], precision: str, *more: str) -> Part:
    name, peer, batch, seconds = family
    words = ["tools.benchmark", "step", name, "--precision", precision, "--device", device]
    words += ["--batch-size", str(batch), "--segment-seconds", str(seconds), *more]
    words += ["--peers", *([peer] if peer else []), "--repeats", "5" if device != "cpu" else "1"]
    title = f"{_STEP}{name} {precision}{', compiled' if more else ''}"
    return Part(title, 3.0 if more else 1.0, [words])


def _fit(gpu: bool, strategy: str, folder: Path) -> Part:
    """Train for an epoch, then resume for another."""
    run = ["cli", "fit", "--config", "bs_roformer/medium" if gpu else "unet/small"]
    run += ["--run_dir", str(folder / strategy), "--trainer.logger=CSVLogger"]
    run += [f"--trainer.accelerator={'gpu' if gpu else 'cpu'}", "--trainer.devices=1"]
    run += [f"--trainer.strategy={strategy}", "--trainer.precision=bf16-mixed"]
    run += ["--trainer.log_every_n_steps=5", "--trainer.limit_val_batches=0"]
    run += ["--data.init_args.batch_size=4"]
    run += [f"--data.init_args.segment_seconds={8.0 if gpu else 0.5}"]
    run += [f"--data.init_args.examples_per_epoch={160 if gpu else 20}"]
    resumed = [*run, "--trainer.max_epochs=2", "--ckpt_path=auto"]
    return Part(f"{_FIT}{strategy}", 2.0, [[*run, "--trainer.max_epochs=1"], resumed])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts; returns settings, products and results in JSON's types."""
    end = time.monotonic() + options.seconds
    report: dict[str, Any] = {
        "settings": {**timing.machine(options.device), "stemlab": version()},
        "products": matrix_products(options.device),
        "parts": {},
    }
    with tempfile.TemporaryDirectory(prefix="stemlab-benchmark-") as folder:
        wanted = [
            part
            for part in parts(options.device, Path(folder))
            if not options.only or part.name.startswith(tuple(options.only))
        ]
        for number, part in enumerate(wanted):
            left = end - time.monotonic()
            # Twice the share: most parts need less, and what is left goes to the later ones.
            limit = min(left, 2 * left * part.weight / sum(each.weight for each in wanted[number:]))
            result = run_part(part, limit, Path(folder))
            report["parts"][part.name] = result
            if options.json:  # kept if this process is stopped
                options.json.parent.mkdir(parents=True, exist_ok=True)
                options.json.write_text(json.dumps(report, indent=2) + "\n")
            state = result["fault"] or "done"
            print(f"{part.name}: {state}, {result['seconds']:.0f} s", file=sys.stderr)
    return report


def run_part(part: Part, limit: float, folder: Path) -> dict[str, Any]:
    """Run the commands of a part for at most ``limit`` seconds.

    Returns:
        Seconds, the reason of a failure or None, and for each command its JSON report or, for a
        training, its last logged values.
    """
    started, reports, fault = time.monotonic(), [], None
    if limit < 1:
        return {"seconds": 0.0, "fault": "no time left", "reports": []}
    for words in part.commands:
        path = folder / "report.json"
        path.unlink(missing_ok=True)
        extra = ["--json", str(path)] if words[0] == "tools.benchmark" else []
        command = [sys.executable, "-m", f"lightning_modules.{words[0]}", *words[1:], *extra]
        fault = _run(command, limit - (time.monotonic() - started))
        if fault:
            break
        reports.append(json.loads(path.read_text()) if extra else _logged(words))
    return {"seconds": time.monotonic() - started, "fault": fault, "reports": reports}


def _run(command: Sequence[str], limit: float) -> str | None:
    """Run a command for at most ``limit`` seconds; returns the reason of a failure."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its workers are stopped with it
    )
    try:
        output, _ = process.communicate(timeout=max(0.1, limit))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"stopped after {limit:.0f} s"
    if process.returncode == 0:
        return None
    lines = output.strip().splitlines()
    return lines[-1][:300] if lines else f"exit status {process.returncode}"


def _logged(words: Sequence[str]) -> dict[str, float]:
    """Last values of a training's CSV log."""
    run = Path(words[words.index("--run_dir") + 1])
    files = sorted(run.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    found: dict[str, float] = {}
    with files[-1].open(newline="") as file:
        for row in csv.DictReader(file):
            found |= {name: float(row[name]) for name in _FIT_COLUMNS if row.get(name)}
    return found


def matrix_products(device: str) -> dict[str, float]:
    """Measure large matrix products; operations per second by data type."""
    kind = torch.device(device).type
    side = _SIDES.get(kind, _SIDES["cpu"])
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        left = torch.randn(side, side, device=device).to(dtype)
        times = [timing.timed(lambda: left @ left, device)[0] for _ in range(6)]  # noqa: B023
        found[str(dtype).removeprefix("torch.")] = 2 * side**3 / min(times[1:])
    return found


# ------------------------------------------------------------------- results


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as Markdown tables."""
    settings, products = report["settings"], report["products"]
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in products.items())
    head = (
        f"{settings['device']}, torch {settings['torch']}, Stemlab {settings['stemlab']}; products "
        f"of large matrices, TFLOP/s: {rates}."
    )
    texts = [head, "\n".join(markdown(_step_lines(report)))]
    for name, part in report["parts"].items():
        if name.startswith(_FIT) and part["reports"]:
            texts.append("\n".join(_fit_lines(name, part["reports"])))
        elif not name.startswith((_STEP, _FIT)):
            texts += [_TABLES[name](found) for found in part["reports"]]
    faults = [
        f"- {name}: {part['fault']}" for name, part in report["parts"].items() if part["fault"]
    ]
    return "\n\n".join([*texts, *(["Not measured:\n" + "\n".join(faults)] if faults else [])])


def _step_lines(report: Mapping[str, Any]) -> list[list[str]]:
    lines = [
        ["network", "precision", "batch", "examples/s", "GPU memory", "TFLOP/s", "of products"]
    ]
    for name, part in report["parts"].items():
        for found in part["reports"] if name.startswith(_STEP) else ():
            precision = found["settings"]["precision"]
            peak = report["products"]["bfloat16" if precision == "bf16-mixed" else "float16"]
            batch = (
                f"{found['settings']['batch_size']} x {found['settings']['segment_seconds']:g} s"
            )
            compiled = name.endswith("compiled")  # the plain rows are those of another part
            rows = {k: v for k, v in found["rows"].items() if not compiled or "compiled" in k}
            for network, row in rows.items():
                if row["fault"]:
                    lines.append(
                        [network, precision, batch, f"not measured: {row['fault']}", "", "", ""]
                    )
                    continue
                flops = row["teraflops_per_second"]
                lines.append([
                    network, precision, batch, f"{row['examples_per_second']:.3g}",
                    f"{row['gpu_peak_gb']:.1f} GB" if row["gpu_peak_gb"] else "-",
                    f"{flops:.3g}" if flops else "-",
                    f"{flops * 1e12 / peak:.0%}" if flops else "-",
                ])  # fmt: skip
    return lines


def _fit_lines(name: str, reports: Sequence[Mapping[str, float]]) -> list[str]:
    lines = [[name, "examples/s", "waits for data", "GPU memory"]]
    for label, logged in zip(("begun", "resumed"), reports, strict=False):
        rate, wait, memory = (logged.get(column) for column in _FIT_COLUMNS)
        lines.append([
            label,
            f"{rate:.3g}" if rate is not None else "-",
            f"{wait:.0%}" if wait is not None else "-",
            f"{memory:.1f} GB" if memory else "-",
        ])  # fmt: skip
    return markdown(lines)
