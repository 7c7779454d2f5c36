"""What the Wiener filter costs: this project's beside those of ``norbert`` and ``openunmix``.

All filter the same noise in stereo, four sources, in one excerpt, from the same estimates, in
turn: norbert in double precision, as it recommends, openunmix in single precision, as its
separator does, and this project's in single precision outside and double inside. Figures are
medians; differences are the largest to norbert's, relative to its largest value.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.markdown import markdown
from lightning_modules.benchmark import timing
from lightning_modules.benchmark.networks import peer
from lightning_modules.benchmark.step import settings_of
from lightning_modules.layers.wiener import wiener

_SOURCES, _CHANNELS, _SAMPLE_RATE, _N_FFT, _HOP_LENGTH = 4, 2, 44100, 4096, 1024
_EPS = 1e-10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument(
        "--track-seconds", type=float, default=6.0, help="length of the excerpt (default 6)"
    )
    parser.add_argument("--iterations", type=int, default=1, help="of the filter (default 1)")
    timing.add_arguments(parser)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Args:
        options: What ``add_arguments`` asked for.

    Raises:
        DataError: An option is not what it must be.
    """
    timing.check(options, "track_seconds", "iterations")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        What was measured, on what and how, in JSON's types.
    """
    torch.manual_seed(0)
    frames = 1 + round(options.track_seconds * _SAMPLE_RATE) // _HOP_LENGTH
    shape = (_CHANNELS, _N_FFT // 2 + 1, frames)
    mixture = 30 * torch.randn(shape, dtype=torch.complex128)
    magnitudes = mixture.abs() * torch.rand(_SOURCES, *shape, dtype=torch.float64)
    filters = {"stemlab": _ours, "norbert (package)": _norbert, "openunmix (package)": _openunmix}
    results: dict[str, Tensor] = {}

    def prepare(name: str) -> Callable[[], object]:
        run, common = filters[name](magnitudes, mixture, options.iterations, options.device)
        results[name] = common(run())
        return run

    measured = timing.time_interleaved(
        {name: partial(prepare, name) for name in filters}, options.repeats, options.device
    )
    reference = results.get("norbert (package)")
    rows = {
        name: {
            "fault": timed.fault or None,
            "seconds": timed.median,
            "difference": None
            if reference is None or name not in results
            else float((results[name] - reference).abs().max() / reference.abs().max()),
            "gpu_peak_gb": timed.peak_bytes / 1e9,
        }
        for name, timed in measured.items()
    }
    return {"settings": settings_of(options) | {"iterations": options.iterations}, "rows": rows}


Filter = tuple[Callable[[], Any], Callable[[Any], Tensor]]
"""What is timed, and what brings its result to (S, C, F, N) in double precision on the CPU."""


def _ours(magnitudes: Tensor, mixture: Tensor, iterations: int, device: str) -> Filter:
    x = mixture[None].to(device, torch.complex64)
    y = (magnitudes * torch.sgn(mixture))[None].to(device, torch.complex64)
    run = partial(wiener, y, x, iterations, eps=_EPS, frames=None)
    return run, lambda result: result[0].cpu().to(torch.complex128)


def _norbert(magnitudes: Tensor, mixture: Tensor, iterations: int, device: str) -> Filter:
    if device != "cpu":
        raise DataError("runs on a CPU only")
    filtered = peer("norbert").wiener
    v, x = magnitudes.permute(3, 2, 1, 0).numpy(), mixture.permute(2, 1, 0).numpy()

    def run() -> Any:
        # A copy, because it scales the mixture in place: little beside the filter.
        return filtered(v, x.copy(), iterations, use_softmask=False, eps=_EPS)

    return run, lambda result: torch.from_numpy(result).permute(3, 2, 1, 0)


def _openunmix(magnitudes: Tensor, mixture: Tensor, iterations: int, device: str) -> Filter:
    filtered = peer("openunmix.filtering").wiener
    v = magnitudes.permute(3, 2, 1, 0).to(device, torch.float32)
    x = torch.view_as_real(mixture.permute(2, 1, 0).contiguous()).to(device, torch.float32)
    run = partial(filtered, v, x, iterations, eps=_EPS)
    # (N, F, C, 2, S) -> (S, C, F, N)
    return run, lambda result: torch.view_as_complex(
        result.permute(4, 2, 1, 0, 3).cpu().double().contiguous()
    )


def table(report: dict[str, Any]) -> str:
    """Write a report for people, as a Markdown table whose columns are aligned.

    Args:
        report: What ``compare`` returned.

    Returns:
        Settings and table, in lines.
    """
    settings = report["settings"]
    ours = report["rows"]["stemlab"]["seconds"]
    lines = [["filter", "time", "times ours", "difference", "GPU memory"]]
    for name, row in report["rows"].items():
        if row["fault"]:
            lines.append([name, f"not measured: {row['fault']}", "", "", ""])
            continue
        difference, memory = row["difference"], row["gpu_peak_gb"]
        lines.append(
            [
                name,
                f"{row['seconds']:.3g} s",
                f"{row['seconds'] / ours:.2f}" if ours else "-",
                f"{difference:.1e}" if difference is not None else "-",
                f"{memory:.2f} GB" if memory else "-",
            ]
        )
    return "\n".join(
        [
            f"Wiener filter on {settings['track_seconds']:g} s of stereo, {_SOURCES} sources, "
            f"iterations {settings['iterations']}; {settings['device']}, "
            f"{settings['threads']} threads, torch {settings['torch']}; median of "
            f"{settings['repeats']}.",
            "",
            *markdown(lines),
        ]
    )
