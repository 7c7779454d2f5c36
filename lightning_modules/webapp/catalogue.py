"""The models of the page: those it was started with, else those of runs and published ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules.errors import DataError
from lightning_modules.checkpoints.files import BEST, LAST
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.inference.stem_files import SeparatingModule
from lightning_modules.interop import model_store, published
from lightning_modules.interop.published import PublishedModel

_CHECKPOINTS = "checkpoints"
_RUNS = "runs"


@dataclass(frozen=True)
class ModelEntry:
    """A model of the page.

    Attributes:
        load: Returns the model; called with a function that is told the part of its download that
            has arrived.
        label: Name in the list.
        about: Lines about it.
        sources: Its sources; empty if they are known only after loading.
        is_here: Whether it is loaded without a download.
    """

    load: Callable[[Callable[[float], None]], SeparatingModule]
    label: str
    about: str = ""
    sources: Sequence[str] = ()
    is_here: Callable[[], bool] = lambda: True


class Catalogue:
    """Models by name; each is loaded when it is first used.

    Args:
        entries: Name -> model; the first is the page's default.
        kept: Number of models to keep in memory, those used last.
    """

    def __init__(self, entries: dict[str, ModelEntry], kept: int = 2) -> None:
        self.entries, self._kept = entries, kept
        self._loaded: dict[str, SeparatingModule] = {}
        self._lock = threading.Lock()

    def needs_download(self, name: str) -> bool:
        """Whether a model is neither loaded nor on this computer."""
        return name not in self._loaded and not self.entries[name].is_here()

    def load(
        self, name: str, progress: Callable[[float], None] = lambda part: None
    ) -> SeparatingModule:
        """Return a model, downloaded and loaded if it is not in memory.

        Raises:
            ValueError: It cannot be downloaded or loaded; the message says why.
        """
        with self._lock:
            model = self._loaded.pop(name, None)
            if model is not None:
                self._loaded[name] = model  # used last
                return model
        model = self.entries[name].load(progress)  # outside of the lock: it can take minutes
        with self._lock:
            self._loaded[name] = model
            while len(self._loaded) > self._kept:
                del self._loaded[next(iter(self._loaded))]
        return model


def given_models(paths: Sequence[Path], device: torch.device) -> Catalogue:
    """Return the models of some paths or names, all loaded.

    Raises:
        ValueError: A model is given twice, or cannot be loaded.
    """
    entries = {
        name: _published(model, device)
        if (model := published.find(path))
        else _file(name, path, device)
        for name, path in zip(model_names(paths), paths, strict=True)
    }
    catalogue = Catalogue(entries, len(entries))
    for name in entries:
        catalogue.load(name)
    return catalogue


def known_models(device: torch.device) -> Catalogue:
    """Return the default model, the runs below ``runs``, and then the other published models."""
    usable = [model for model in published.published_models().values() if not model.unsupported]
    entries = {model.name: _published(model, device) for model in usable}
    first = published.default_model()
    trained = list(_newest_first(Path(_RUNS).glob(f"*/{_CHECKPOINTS}")))
    runs = {}
    for name, path in zip(model_names(trained), trained, strict=True):
        unique = f"{_RUNS}/{name}" if name in entries else name
        runs[unique] = _file(unique, path, device)
    return Catalogue({first: entries[first], **runs, **entries})


def _newest_first(folders: Iterable[Path]) -> Iterable[Path]:
    """Return the best checkpoint of each run, or else the last."""
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        checkpoints = [folder / name for name in (BEST, LAST) if (folder / name).is_file()]
        yield from checkpoints[:1]


def _file(name: str, path: Path, device: torch.device) -> ModelEntry:
    run = _run_of(path)
    about = f"The run {run.name}, {path.name}" if run else f"The file {path.name}"
    return ModelEntry(lambda progress: load_separator(path, device), name, about)


def _published(model: PublishedModel, device: torch.device) -> ModelEntry:
    def load(progress: Callable[[float], None]) -> SeparatingModule:
        model_store.fetch(model, progress)
        return model_store.load(model).to(device)

    stems = model.sources
    words = f"{len(stems)} stems" if len(stems) > 2 else " and ".join(stems)
    size = f", {model.bytes / 1e6:,.0f} MB" if model.bytes else ""
    return ModelEntry(
        load,
        label=f"{model.name} ({words})",
        about=f"{model.about}. Stems: {', '.join(stems)}{size}. Licence of the weights: "
        f"{model.weights_licence}. Please cite: {model.citation}",
        sources=stems,
        is_here=lambda: model_store.is_complete(model),
    )


def model_names(checkpoints: Sequence[Path]) -> list[str]:
    """Name models by their runs, or else by their files.

    Returns:
        Names in the same order, as short as they can differ: ``unet`` of
        ``runs/unet/checkpoints/best.ckpt``, or ``unet/best`` and ``unet/last`` if both are given.

    Raises:
        DataError: A checkpoint is given twice.
    """
    paths = [path.resolve() for path in checkpoints]
    if len(set(paths)) < len(paths):
        raise DataError("--checkpoint: a file is given twice; give each once")
    runs = [_run_of(path) or path.with_suffix("") for path in paths]
    files = [
        run / path.stem if _run_of(path) else run for run, path in zip(runs, paths, strict=True)
    ]
    # The suffixes may be all that differs.
    for named, shortest in ((runs, 1), (files, 2), (paths, 1)):
        for length in range(shortest, max(map(_length, named), default=shortest) + 1):
            names = ["/".join(path.parts[-length:]) for path in named]
            if len(set(names)) == len(names):
                return names
    raise AssertionError("different paths have different names")


def _run_of(path: Path) -> Path | None:
    """Return the directory of the run that a checkpoint belongs to; None if there is none."""
    return path.parent.parent if path.parent.name == _CHECKPOINTS else None


def _length(path: Path) -> int:
    return len(path.parts)
