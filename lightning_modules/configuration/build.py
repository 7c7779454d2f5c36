"""Build a model from its configs without a run, for benchmarks and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything

from datamodules.musdb import MUSDBDataModule
from datamodules.tracks.sources import grouping
from lightning_modules.base.former_names import with_current_class_paths
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.configuration.files import SECTIONS, ConfigError, chain
from lightning_modules.configuration.messages import simplify_parser_error

PARSER_MODE = "stemlab"
"""Parser mode of command lines and configs: YAML, OmegaConf interpolation, former class paths."""
_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    value = _load_yaml(text)
    if isinstance(value, (dict, list)):
        value = OmegaConf.to_object(OmegaConf.create(value))
    return with_current_class_paths(value)


set_loader(PARSER_MODE, _load, (yaml.YAMLError, OmegaConfBaseException))


class Configured(NamedTuple):
    """A model with random weights drawn from seed 0, and the arguments of its data module."""

    model: SourceSeparator
    data: dict[str, Any]


def link_shared(parser: ArgumentParser) -> None:
    """Link the settings of ``data`` that ``model`` shares."""
    parser.link_arguments(
        ("data.init_args.sources", "data.init_args.stems"),
        "model.init_args.sources",
        compute_fn=lambda sources, stems: list(grouping(sources, stems)),
    )
    for name in ("sample_rate", "audio_channels", "segment_seconds"):
        parser.link_arguments(f"data.init_args.{name}", f"model.init_args.{name}")


def build_model(name: str, settings: Sequence[str] = ()) -> Configured:
    """Build the model that a config describes.

    Args:
        name: The config; see ``chain``.
        settings: Arguments of the command line, such as ``--model.init_args.compiled=true``.

    Returns:
        The model, on the CPU in training mode, and the settings of its data.

    Raises:
        ConfigError: The config or a setting cannot be used.
    """
    parser = ArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(SourceSeparator, "model", required=True)
    parser.add_subclass_arguments(MUSDBDataModule, "data", required=True)
    for section in set(SECTIONS) - {"model", "data"}:
        parser.add_argument(f"--{section}", type=Any)
    link_shared(parser)
    words = [word for path in chain(name) for word in ("--config", str(path))]
    try:
        parsed = parser.parse_args([*words, *settings])
        seed_everything(0, verbose=False)
        # Not the data module, which would search for data.
        model = parser.instantiate_classes(Namespace(model=parsed.model)).model  # type: ignore[no-untyped-call]
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{name}: {simplify_parser_error(str(error))}") from error
    return Configured(model, parsed.data.init_args.as_dict())
