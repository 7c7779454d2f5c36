"""Import of weights of the package ``openunmix``."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from datamodules.files.names import suffix_of
from lightning_modules.architectures.open_unmix import OpenUnmix, bins_up_to
from lightning_modules.base.description import CheckpointError, one_line
from lightning_modules.checkpoints.limits import building_from, check_weights
from lightning_modules.interop.weights_file import (
    integer_setting,
    our_order,
    read_weights,
    source_names,
)


def from_package(folder: str | Path, settings: Mapping[str, Any] | None = None) -> OpenUnmix:
    """Build a separator from weights of the package ``openunmix``.

    Args:
        folder: Folder with one state dict per source, ``<source>.pth`` (as the package's training
            writes them) or ``<source>-<hash>.pth`` (as published). Hop and sample rate are read
            from its ``separator.json``; by default a quarter of the window and 44,100 Hz.
        settings: What counts instead of ``separator.json``.

    Returns:
        The separator, in evaluation mode, with one iteration of the Wiener filter; with the
        residual if there is only one source.

    Raises:
        CheckpointError: A file is missing or invalid.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.iterdir() if suffix_of(path) == ".pth")
    by_name = {path.stem.split("-")[0]: path for path in files}
    if not files or len(by_name) < len(files):
        found = ", ".join(path.name for path in files) or "none"
        raise CheckpointError(
            f"{folder}: its .pth files are {found}: one per source was expected, such as "
            "vocals.pth or vocals-b62c91ce.pth"
        )
    names = our_order(source_names(folder, list(by_name)))
    files = [by_name[name] for name in names]
    states = [_read_state(path) for path in files]
    size = sum(path.stat().st_size for path in files)
    with building_from(folder, size, "weights of openunmix's networks were expected"):
        model = _build(folder, names, states[0], settings or {})
        for name, state, path in zip(names, states, files, strict=True):
            _load_state(model.networks[name], state, path)
    model.statistics_known.fill_(True)
    return model.eval()


def _build(
    folder: Path, names: list[str], first: Mapping[str, Tensor], given: Mapping[str, Any]
) -> OpenUnmix:
    """Build a model of the sizes of one source's weights."""
    path = folder / "separator.json"
    settings = {**_read_settings(path), **given}
    hidden_size, (input_bins,) = len(first["fc1.weight"]), first["input_mean"].shape
    bins = len(first["output_mean"])
    n_fft, rate = 2 * (bins - 1), integer_setting(path, settings, "sample_rate", 44100)
    channels = len(first["fc3.weight"]) // bins
    # The weights contain bins, not Hz: the package's 16 kHz if that gives the same bins.
    default = bins_up_to(16e3, n_fft, rate) == input_bins
    return OpenUnmix(
        names,
        hidden_size=hidden_size,
        layers=sum(key.startswith("lstm.weight_ih") and "reverse" not in key for key in first),
        bandwidth_hz=16e3 if default else math.ceil((input_bins - 1) * rate / n_fft),
        unidirectional="lstm.weight_ih_l0_reverse" not in first,
        mono=channels == 1,
        n_fft=n_fft,
        hop_length=integer_setting(path, settings, "nhop", n_fft // 4),
        sample_rate=rate,
        wiener_iterations=1,
        wiener_residual=len(names) == 1,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: a JSON object was expected ({one_line(error)})") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: a JSON object was expected, not {settings!r:.80}")
    return settings


def _read_state(path: Path) -> dict[str, Tensor]:
    state = read_weights(path)
    check_weights(path, state)
    missing = {"fc1.weight", "fc3.weight", "input_mean", "output_mean"} - set(state)
    if missing:
        raise CheckpointError(
            f"{path}: has no {', '.join(sorted(missing))}: a state dict of openunmix's network was "
            "expected"
        )
    return dict(state)


def _load_state(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        # The first published weights also contain windows and a rate.
        result = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: has a different size from the other sources' weights: {one_line(error)}"
        ) from error
    if result.missing_keys:
        raise CheckpointError(
            f"{path}: has no {', '.join(result.missing_keys)}: a complete state dict was expected"
        )
    if result.unexpected_keys:
        ignored = ", ".join(result.unexpected_keys)
        message = f"{path}: ignored {ignored}, which are not weights of the network"
        warnings.warn(message, stacklevel=3)
