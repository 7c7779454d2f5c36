"""Models of Music-Source-Separation-Training (MSST), a YAML config and weights: import, export.

Files are read without executing code from them. ``separate`` of an imported model equals MSST's
``demix`` with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from torch import Tensor

from lightning_modules.base.description import CheckpointError, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.interop import (
    msst_htdemucs,
    msst_moises_light,
    msst_roformers,
    msst_scnet,
    msst_tfc_tdf,
)
from lightning_modules.interop.msst_files import (
    Exported,
    Imported,
    ModelFiles,
    read_config,
    read_state,
    write_files,
)


class _Family(Protocol):
    """A module that imports and exports some types of MSST."""

    @property
    def KINDS(self) -> tuple[str, ...]:
        """Names of the types in MSST."""

    @property
    def CLASSES(self) -> tuple[type[SourceSeparator], ...]:
        """Architectures that it exports."""

    def kind_of(self, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
        """Return the type that options of a config or weights belong to; None for others."""

    def load(self, files: ModelFiles, kind: str) -> Imported:
        """Build a separator."""

    def export(self, model: SourceSeparator) -> Exported:
        """Describe a model as MSST does."""


_FAMILIES: tuple[_Family, ...] = (
    msst_roformers, msst_scnet, msst_tfc_tdf, msst_moises_light, msst_htdemucs,
)  # fmt: skip


def load(config: str | Path, weights: str | Path, **options: bool) -> Imported:
    """Build a separator from a model of MSST.

    Args:
        config: The YAML config of its training.
        weights: The weights: a state dict, as it is or in a checkpoint, in any precision.
        **options: What weights do not show, for what the config's section ``model`` says:
            ``zero_dc``, to set bin 0 of estimates to zero (RoFormers: by default yes, as in MSST
            since September 2025); ``standardise_input`` of ``SCNet`` (by default no).

    Raises:
        CheckpointError: A file cannot be read, is of a type that is not supported, or config and
            weights contradict each other.
    """
    config, weights = Path(config), Path(weights)
    files = ModelFiles(config, weights, read_config(config), read_state(weights))
    family, kind = _kind(files)
    files.options.update(options)
    try:
        return family.load(files, kind)
    except KeyError as error:
        raise CheckpointError(
            f"{weights}: has no weights {error}, which a {kind} has; check that {config} belongs "
            "to it"
        ) from error


def _kind(files: ModelFiles) -> tuple[_Family, str]:
    """Return the model's type, from the config, or else from its options or the weights."""
    kind = files.sections["training"].get("model_type")
    if not kind:
        found = (family.kind_of(files.options, files.state) for family in _FAMILIES)
        kind = next(filter(None, found), None)
    for family in _FAMILIES:
        if kind in family.KINDS:
            return family, str(kind)
    known = ", ".join(kind for family in _FAMILIES for kind in family.KINDS)
    raise CheckpointError(
        f"{files.config}: is of {f'type {kind}' if kind else 'no known type'}; types that can be "
        f"imported: {known}"
    )


def fit_config(model: SourceSeparator) -> str:
    """Return a YAML config that makes ``fit`` build a model of the same size and sources."""
    description = describe(model)
    linked = {"sources", "sample_rate", "audio_channels", "segment_seconds"}
    arguments = description["init_args"]
    config = {
        "model": {
            "class_path": description["class_path"],
            "init_args": {key: value for key, value in arguments.items() if key not in linked},
        },
        "data": {"init_args": {key: arguments[key] for key in sorted(linked)}},
    }
    return yaml.safe_dump(config, sort_keys=False)


def write(model: SourceSeparator, folder: Path) -> list[Path]:
    """Write a model's config and weights as MSST loads them: ``config.yaml``, ``model.ckpt``.

    Raises:
        ValueError: MSST has no such architecture.
    """
    for family in _FAMILIES:
        if isinstance(model, family.CLASSES):
            return write_files(model, family.export(model), folder)
    names = ", ".join(kind.__name__ for family in _FAMILIES for kind in family.CLASSES)
    raise ValueError(f"MSST has no {type(model).__name__}: one of {names} was expected")
