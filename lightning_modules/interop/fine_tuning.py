"""Fine-tuning: a model begins with the weights of another, which may separate other sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.base.description import CONFIG, CheckpointError, check_is_there, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop import demucs, open_unmix

# Names that the message lists.
_MOST_NAMED = 8


@dataclass(frozen=True)
class TransferReport:
    """What a model took over.

    Attributes:
        path: Where from.
        whole: Names of weights that were taken as they are.
        by_source: Names of weights of which the parts of some sources were taken.
        left: Names of weights that begin as they were drawn.
        sources: Sources whose weights were taken.
        new: Sources that the file does not have.
    """

    path: Path
    whole: list[str]
    by_source: list[str]
    left: list[str]
    sources: list[str]
    new: list[str]

    def __str__(self) -> str:
        """What to tell the user, in lines."""
        total = len(self.whole) + len(self.by_source) + len(self.left)
        lines = [f"Pretrained: {len(self.whole)} of {total} weights are those of {self.path}"]
        if self.by_source:
            lines.append(f"  of {_listed(self.by_source)} the parts of {', '.join(self.sources)}")
        if self.new:
            lines.append(f"  new, and drawn at random: {', '.join(self.new)}")
        if self.left:
            lines.append(f"  begin as drawn, too: {_listed(self.left)}")
        return "\n".join(lines)


def load_pretrained(model: SourceSeparator, path: str | Path) -> TransferReport:
    """Let a model begin with the weights of another of its architecture.

    Weights are matched by name. A layer that has outputs for each source is matched source by
    source, by the sources' names: what the file does not have begins as it was drawn. Which
    axis of a layer the sources lie on shows when the model is built with one source more.

    Args:
        model: The model that is to be trained; its weights change in place.
        path: A checkpoint of ``fit``; a folder of ``hub_folder``; a folder of Open-Unmix'
            ``.pth`` files; or weights of Demucs as its package saves them.

    Returns:
        What was taken over, and what was not.

    Raises:
        CheckpointError: The file cannot be used, or is of another architecture or size.
    """
    path = Path(path)
    other = read_separator(path)
    if type(other) is not type(model):
        raise CheckpointError(
            f"{path}: pretrained weights are of a {type(other).__name__}, the config builds a "
            f"{type(model).__name__}: use weights of that architecture"
        )
    _check_size(path, other, model)
    theirs, ours = other.state_dict(), model.state_dict()
    same_sources = other.sources == model.sources
    divided = {} if same_sources else _parts_by_source(other)
    places = [
        other.sources.index(source) if source in other.sources else None for source in model.sources
    ]
    taken = TransferReport(
        path,
        whole=[],
        by_source=[],
        left=[],
        sources=[source for source in model.sources if source in other.sources],
        new=[source for source in model.sources if source not in other.sources],
    )
    with torch.no_grad():
        for name, weights in ours.items():
            found = theirs.get(name)
            if found is not None and name in divided:
                fits = _copy_by_source(weights, found, divided[name], places, len(other.sources))
                (taken.by_source if fits else taken.left).append(name)
            elif found is not None and found.shape == weights.shape:
                weights.copy_(found)
                taken.whole.append(name)
            else:
                taken.left.append(name)
    return taken


def read_separator(path: Path) -> SourceSeparator:
    """Read weights of any format that an architecture here reads.

    Args:
        path: A checkpoint, as a file or a folder of ``hub_folder``; a folder of Open-Unmix'
            files; or a file of Demucs' package.

    Returns:
        The separator.

    Raises:
        CheckpointError: It is none of these.
    """
    if path.is_dir() and not (path / CONFIG).is_file():
        return open_unmix.from_package(path)
    check_is_there(path)
    if path.suffix == ".ckpt" or path.is_dir():
        return load_separator(path)
    return demucs.from_package(path)


def _check_size(path: Path, other: SourceSeparator, model: SourceSeparator) -> None:
    """Check that nothing but their sources makes the weights of two models unlike."""
    theirs, ours = describe(other)["init_args"], describe(model)["init_args"]
    expected = other
    if other.sources != model.sources:
        expected = type(other)(**{**theirs, "sources": model.sources})
    shapes = [
        {name: weights.shape for name, weights in each.state_dict().items()}
        for each in (expected, model)
    ]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{path}: pretrained weights are of another size; there it is "
            f"{_differences(theirs, ours, model.changeable_hparams)}: give the model these "
            "arguments"
        )


class _Parts(NamedTuple):
    """Where weights have a part for each source: on an axis, of a width each."""

    axis: int
    width: int


def _parts_by_source(model: SourceSeparator) -> dict[str, _Parts]:
    """Find the weights that grow with the number of sources."""
    arguments = describe(model)["init_args"]
    more = type(model)(**{**arguments, "sources": [*model.sources, "one_more"]}).state_dict()
    return {
        name: _Parts(axis, larger - size)
        for name, weights in model.state_dict().items()
        for axis, (size, larger) in enumerate(zip(weights.shape, more[name].shape, strict=True))
        if larger > size
    }


def _copy_by_source(
    ours: Tensor, theirs: Tensor, parts: _Parts, places: Sequence[int | None], number: int
) -> bool:
    """Copy the parts of weights that belong to sources that both have.

    Args:
        ours: Weights that change.
        theirs: Weights of the other model.
        parts: Where the parts of the sources are in them. The last source may have none: it is
            what the others leave of the mixture.
        places: For each of our sources, which one it is there.
        number: Number of sources there.

    Returns:
        Whether both are so divided, and of one size but for the sources.
    """
    axis, width = parts
    without = number - theirs.shape[axis] // width  # sources that have no part
    expected = list(theirs.shape)
    expected[axis] = width * (len(places) - without)
    if without not in (0, 1) or list(ours.shape) != expected:
        return False
    for our_place, place in enumerate(places[: len(places) - without]):
        if place is not None and place < number - without:
            part = theirs.narrow(axis, place * width, width)
            ours.narrow(axis, our_place * width, width).copy_(part)
    return True


def _differences(
    theirs: Mapping[str, object], ours: Mapping[str, object], free: frozenset[str]
) -> str:
    """Name the arguments that differ, but for sources and those that change no weights."""
    return ", ".join(
        f"{name} {theirs.get(name)!r} (here {ours.get(name)!r})"
        for name in sorted({*theirs, *ours} - free - {"sources"})
        if theirs.get(name) != ours.get(name)
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
