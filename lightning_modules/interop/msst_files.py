"""Config and weights files of MSST: what the importers and exporters of all its models share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from datamodules.errors import counted
from datamodules.tracks.layouts import STEMS
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import check_weights
from lightning_modules.interop.renaming import Rules, from_theirs, their_names
from lightning_modules.interop.weights_file import integer_setting, read_weights, source_names

# The checkpoints of SCNet's authors have both of the first two, and use the first.
_WRAPPERS = ("best_state", "state", "state_dict", "model_state_dict")


class Imported(NamedTuple):
    """An imported separator, in evaluation mode, and remarks on its config."""

    model: SourceSeparator
    notes: list[str]


class Exported(NamedTuple):
    """A model as MSST describes it.

    Attributes:
        kind: Its type.
        options: The section ``model``.
        state: Its weights.
        audio: More of the section ``audio``.
        training: More of the section ``training``.
        by_name: Whether ``model`` is only the name of the section that has the options.
    """

    kind: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    audio: Mapping[str, Any] = {}
    training: Mapping[str, Any] = {}
    by_name: bool = False


class ModelFiles(NamedTuple):
    """A config and weights, with their contents."""

    config: Path
    weights: Path
    sections: dict[str, dict[str, Any]]
    state: dict[str, Tensor]

    @property
    def options(self) -> dict[str, Any]:
        """The section ``model`` of the config."""
        return self.sections["model"]

    @property
    def sample_rate(self) -> int:
        """Sample rate, Hz."""
        return integer_setting(self.config, self.sections["audio"], "sample_rate", 44100)

    def check_options(self, found: Mapping[str, Any]) -> None:
        """Raise ``CheckpointError`` if an option contradicts what was found in the weights."""
        for name, value in found.items():
            given = self.options.get(name, value)
            if (list(given) if isinstance(given, tuple) else given) != value:
                raise CheckpointError(
                    f"{self.config}: model.{name} is {self.options[name]}, but {self.weights} has "
                    f"{value}: correct the config, or give the one that belongs to the weights"
                )

    def check_supported(self, supported: Mapping[str, Any]) -> None:
        """Raise ``CheckpointError`` if an option has another value than the supported one."""
        for name, expected in supported.items():
            if self.options.get(name, expected) != expected:
                raise CheckpointError(
                    f"{self.config}: model.{name} is {self.options[name]}: only {expected} is "
                    "supported"
                )

    def refuse_options(self, *names: str) -> None:
        """Raise ``CheckpointError`` if one of the options is set."""
        for name in names:
            if self.options.get(name):
                raise CheckpointError(
                    f"{self.config}: model.{name} is {self.options[name]}: this kind of network "
                    "is not supported"
                )

    def remarks(self, known: Collection[str], without_effect: Collection[str]) -> list[str]:
        """Return remarks on options without effect, and on options that are not known."""
        kinds = {
            "not needed": sorted({*self.options}.intersection(without_effect)),
            "unknown, ignored": sorted({*self.options} - {*known} - {*without_effect}),
        }
        return [
            f"{self.config}: {what}: {', '.join(f'model.{name}' for name in names)}"
            for what, names in kinds.items()
            if names
        ]

    def sources(self, number: int) -> list[str]:
        """Return the names of the weights' stems; standard names get their usual letter case.

        Raises:
            CheckpointError: The config does not name ``number`` stems.
        """
        training = self.sections["training"]
        names, target = list(training.get("instruments") or []), training.get("target_instrument")
        if target and len(names) != number:
            names = [target]
        if len(names) != number:
            raise CheckpointError(
                f"{self.config}: names {counted(len(names), 'stem')} "
                f"({', '.join(map(str, names)) or 'none'}),"
                f" the weights in {self.weights} separate {number}: correct training.instruments, "
                "or set training.target_instrument for weights of a single stem"
            )
        names = source_names(self.config, names)
        return [name.lower() if name.lower() in STEMS else name for name in names]

    def separation(self, chunk: int | None = None) -> dict[str, Any]:
        """Return the settings of separation that equal MSST's ``demix``.

        Args:
            chunk: Length of a chunk, samples; by default the option ``chunk_size``.
        """
        inference, audio = self.sections["inference"], self.sections["audio"]
        chunk = chunk or integer_setting(
            self.config, inference if inference.get("chunk_size") else audio, "chunk_size", 0
        )
        overlaps = integer_setting(self.config, inference, "num_overlap", 1)
        return {
            "segment_seconds": chunk / self.sample_rate,
            "chunks_at_once": integer_setting(self.config, inference, "batch_size", 1),
            "overlap": (chunk - chunk // overlaps) / chunk,
            "overlap_window": "ramps",
            "edges": "reflect",
            "normalise_mixture": bool(inference.get("normalize", False)),
        }

    def load_into(
        self, model: SourceSeparator, state: Mapping[str, Tensor], unknown: list[str]
    ) -> None:
        """Load converted weights into a model.

        Args:
            model: The model.
            state: Its weights.
            unknown: Names of weights in the file that it does not have.

        Raises:
            CheckpointError: There are unknown weights, or the weights do not fit.
        """
        if unknown:
            raise CheckpointError(
                f"{self.weights}: has {counted(len(unknown), 'weight')} that "
                f"{type(model).__name__} does not "
                f"have, such as {unknown[0]}: it is of another kind of network, which is not "
                "supported"
            )
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{self.weights}: {reason}") from error

    def load_renamed(self, model: SourceSeparator, rules: Rules, not_needed: str = "") -> None:
        """Load the weights into a model whose names differ by rules; errors are ``load_into``'s.

        Args:
            model: The model.
            rules: See ``renaming``.
            not_needed: Regular expression of names in the file that the model does without.

        Raises:
            KeyError: A weight is missing; the error holds its name.
        """
        known = set(their_names(model, rules).values())
        unknown = [
            name for name in self.state if name not in known and not re.fullmatch(not_needed, name)
        ]
        self.load_into(model, from_theirs(model, self.state, rules), unknown)


class _Loader(yaml.SafeLoader):
    """YAML without Python objects, but with the tuples that MSST's configs contain."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node)),  # type: ignore[arg-type]
)


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """Read a config's sections; absent ones are empty.

    Raises:
        CheckpointError: It is no YAML mapping of sections.
    """
    try:
        config = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: cannot be read as a YAML config ({reason}); give the config that belongs to "
            "the weights"
        ) from error
    if isinstance(config, dict) and isinstance(config.get("model"), str):
        config["model"] = config.get(config["model"])  # Demucs' options have their own section
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(
            f"{path}: has no section `model`; a config of Music-Source-Separation-Training was "
            "expected"
        )
    sections = {"audio": {}, "training": {}, "inference": {}, **config}
    for name in ("audio", "training", "inference"):
        if not isinstance(sections[name], dict):
            raise CheckpointError(
                f"{path}: {name} is {sections[name]!r}, a section with keys was expected"
            )
    return sections


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict in float32, unwrapped from a checkpoint if necessary.

    Raises:
        CheckpointError: The file is unreadable or contains no weights.
    """
    contents = read_weights(path)
    for name in _WRAPPERS:
        if isinstance(contents, Mapping) and isinstance(contents.get(name), Mapping):
            contents = contents[name]
    check_weights(path, contents)
    return {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in contents.items()
    }


def write_files(model: SourceSeparator, exported: Exported, folder: Path) -> list[Path]:
    """Write an exported model as MSST loads it: ``config.yaml`` and ``model.ckpt``."""
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "config.yaml", folder / "model.ckpt"
    # The full dumper writes tuples as MSST expects them; the config holds plain data only.
    config.write_text(yaml.dump(_sections(model, exported), sort_keys=False))
    torch.save(exported.state, weights)
    return [config, weights]


def _sections(model: SourceSeparator, exported: Exported) -> dict[str, Any]:
    settings = model.separation_settings
    options: dict[str, Any] = {"model": exported.options}
    if exported.by_name:
        options = {"model": exported.kind, exported.kind: exported.options}
    return {
        "audio": {
            "chunk_size": round(model.segment_seconds * model.sample_rate),
            "sample_rate": model.sample_rate,
            "num_channels": model.audio_channels,
            "min_mean_abs": 0.0,
            **exported.audio,
        },
        **options,
        "training": {
            "instruments": list(model.sources),
            "target_instrument": model.sources[0] if len(model.sources) == 1 else None,
            "model_type": exported.kind,
            "use_amp": False,
            **exported.training,
        },
        "inference": {
            "batch_size": settings.batch_size,
            "num_overlap": round(1 / (1 - settings.overlap)),
            "normalize": settings.normalise_mixture,
        },
    }
