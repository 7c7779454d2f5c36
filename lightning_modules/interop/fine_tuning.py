"""Fine-tuning: initialise a model with another model's weights; sources may differ."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from datamodules.errors import listed
from datamodules.files.names import suffix_of
from lightning_modules.base.description import CONFIG, CheckpointError, check_is_there, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop import demucs, hub, model_store, open_unmix
from lightning_modules.interop.published import find

# Weights that a summary names.
_NAMED = 8


@dataclass(frozen=True)
class TransferReport:
    """Which weights were loaded.

    Attributes:
        path: The file or folder of the weights.
        sources: Sources that both models have.
        new: Sources of the new model that the pretrained model does not have.
        complete: Names of weight tensors that were copied completely.
        by_source: Names of weight tensors that were copied only for the sources of both models.
        random: Names of weight tensors that keep their random initialisation.
    """

    path: Path
    sources: list[str]
    new: list[str]
    complete: list[str] = field(default_factory=list)
    by_source: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a summary for the user."""
        total = len(self.complete) + len(self.by_source) + len(self.random)
        loaded = f"{len(self.complete)} of {total} weight tensors completely loaded"
        lines = [f"Pretrained: {loaded} from {self.path}"]
        if self.by_source:
            lines.append(
                f"  loaded for {', '.join(self.sources)} only: {listed(self.by_source, _NAMED)}"
            )
        if self.new:
            lines.append(f"  new sources, initialised at random: {', '.join(self.new)}")
        if self.random:
            lines.append(f"  initialised at random: {listed(self.random, _NAMED)}")
        return "\n".join(lines)


def load_pretrained(model: SourceSeparator, path: str | Path) -> TransferReport:
    """Initialise a model with the weights of another model of the same architecture.

    Weights are matched by name. In layers with outputs per source, they are copied source by
    source, by the sources' names. Sources that the pretrained model does not have keep their
    random initialisation. To find the axis of the sources in each layer, the pretrained model is
    built again with one more source, and the shapes are compared. ``loss_buffers`` of the model
    are not copied.

    Args:
        model: The model to train; its weights change in place.
        path: A checkpoint of ``fit``; a folder in the layout of the Hugging Face Hub; a folder of
            Open-Unmix ``.pth`` files; a weights file of the package ``demucs``; or the name of a
            published model.

    Returns:
        Which weights were loaded and which were not.

    Raises:
        CheckpointError: The file cannot be read, or contains a different architecture or size.
    """
    path = Path(path)
    other = read_separator(path)
    if type(other) is not type(model):
        raise CheckpointError(
            f"{path}: pretrained weights are of a {type(other).__name__}, but the config builds a "
            f"{type(model).__name__}: use weights of a {type(model).__name__}"
        )
    _check_size(path, other, model)
    theirs, ours = other.state_dict(), model.state_dict()
    parts = {} if other.sources == model.sources else _parts_by_source(other)
    indices = [
        other.sources.index(source) if source in other.sources else None for source in model.sources
    ]
    common = [source for source in model.sources if source in other.sources]
    new = [source for source in model.sources if source not in other.sources]
    report = TransferReport(path, common, new)
    with torch.no_grad():
        for name, weights in ours.items():
            if name in model.loss_buffers:
                continue
            found = theirs.get(name)
            if found is not None and name in parts:
                number = len(other.sources)
                copied = _copy_by_source(weights, found, parts[name], indices, number)
                (report.by_source if copied else report.random).append(name)
            elif found is not None and found.shape == weights.shape:
                weights.copy_(found)
                report.complete.append(name)
            else:
                report.random.append(name)
    return report


def read_separator(path: Path) -> SourceSeparator:
    """Load a separator from any of the formats listed in ``load_pretrained``."""
    if (published := find(path)) is not None:
        return model_store.load(published)
    if hub.find(path) is not None:
        return load_separator(path)
    if path.is_dir() and not (path / CONFIG).is_file():
        return open_unmix.from_package(path)
    check_is_there(path)
    if suffix_of(path) == ".ckpt" or path.is_dir():
        return load_separator(path)
    return demucs.from_package(path)


def _check_size(path: Path, other: SourceSeparator, model: SourceSeparator) -> None:
    """Raise if the models' weights differ in shape for another reason than the sources."""
    theirs, ours = describe(other)["init_args"], describe(model)["init_args"]
    expected = other
    if other.sources != model.sources:
        expected = type(other)(**{**theirs, "sources": model.sources})
    shapes, wanted = (
        {name: weights.shape for name, weights in each.state_dict().items()}
        for each in (expected, model)
    )
    if shapes != wanted:
        # Sources and changeable arguments do not affect the sizes that are compared.
        names = sorted({*theirs, *ours} - model.changeable_hparams - {"sources"})
        different = ", ".join(
            f"{name} {theirs.get(name)!r} (here {ours.get(name)!r})"
            for name in names
            if theirs.get(name) != ours.get(name)
        )
        raise CheckpointError(
            f"{path}: pretrained weights are of a different size; they have {different}: set these "
            "arguments under model.init_args"
        )


def _parts_by_source(model: SourceSeparator) -> dict[str, tuple[int, int]]:
    """Find the weights whose size depends on the sources: axis, and entries per source."""
    arguments = describe(model)["init_args"]
    new = next(name for name in map(str, itertools.count()) if name not in model.sources)
    more = type(model)(**{**arguments, "sources": [*model.sources, new]}).state_dict()
    return {
        name: (axis, larger - size)
        for name, weights in model.state_dict().items()
        for axis, (size, larger) in enumerate(zip(weights.shape, more[name].shape, strict=True))
        if larger > size
    }


def _copy_by_source(
    ours: Tensor, theirs: Tensor, part: tuple[int, int], indices: Sequence[int | None], number: int
) -> bool:
    """Copy the weights of the sources that both models have.

    Args:
        ours: Weights of the new model.
        theirs: Weights of the pretrained model.
        part: Axis of the sources, and entries per source.
        indices: For each source of the new model, its index in the pretrained model, or None.
        number: Number of sources of the pretrained model.

    Returns:
        True if the weights were copied; False if the shapes differ other than by the number of
        sources.
    """
    axis, width = part
    # 1 if the last source has no weights, being computed as the mixture minus the others, else 0.
    without = number - theirs.shape[axis] // width
    expected = list(theirs.shape)
    expected[axis] = width * (len(indices) - without)
    if without not in (0, 1) or list(ours.shape) != expected:
        return False
    for ours_index, index in enumerate(indices[: len(indices) - without]):
        if index is not None and index < number - without:
            given = theirs.narrow(axis, index * width, width)
            ours.narrow(axis, ours_index * width, width).copy_(given)
    return True
