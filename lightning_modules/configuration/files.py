"""Find config files with their parents, and check their sections; imports no Lightning."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import did_you_mean
from lightning_modules.base.former_names import with_current_class_paths

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# A class name stands for a model or data module with its default arguments.
_KINDS: dict[str, tuple[type, ...]] = {
    "trainer": (dict,),
    "model": (dict, str),
    "data": (dict, str),
}
SECTIONS = ("seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only", "run_dir")


class ConfigError(ValueError):
    """A config or an argument cannot be used; the message names it and the remedy."""


def find_config(name: str) -> Path:
    """Find a config by path, or by name in ``configs/``: ``unet``, ``unet/small.yaml``.

    Raises:
        ConfigError: There is no such file.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if name and path.is_file():
            return path.resolve()
    stem = name.removesuffix(".yaml")
    variants = {f"{path.parent.name}_{path.stem}": path for path in _variants()}
    if stem in variants:
        new = config_name(variants[stem])
        print(
            f"note: config {name} is now {new}.yaml; the old name works until version 0.3",
            file=sys.stderr,
        )
        return variants[stem]
    meant = did_you_mean(stem, config_names()) or ";"
    raise ConfigError(
        f"config {name!r} does not exist, neither here nor in {CONFIGS}{meant} there are: "
        f"{architectures()}"
    )


def config_name(path: Path) -> str:
    """Path of a config in ``configs/`` without suffix, such as ``unet/small``; else its path."""
    if path.is_relative_to(CONFIGS):
        return path.relative_to(CONFIGS).with_suffix("").as_posix()
    return str(path)


def config_names() -> list[str]:
    """List the shipped configs of architectures and their variants, sorted."""
    return sorted(config_name(path) for path in (*_roots(), *_variants()))


def architectures() -> str:
    """List the configs of architectures in one line, for error messages."""
    names = ", ".join(f"{path.stem}.yaml" for path in _roots())
    return f"{names}, and their variants, such as unet/small.yaml"


def _roots() -> list[Path]:
    return sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "base")


def _variants() -> list[Path]:
    return [path for root in _roots() for path in sorted(root.with_suffix("").glob("*.yaml"))]


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that raises on duplicate keys; PyYAML's own silently keeps the last one."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, f"{key!r} cannot be a key", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key {key!r}; keep one of them", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config and check its sections.

    Raises:
        ConfigError: It is not a YAML mapping, a key is duplicated, or a section is unknown.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace("<unicode string>", path.name).split())
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(settings).__name__}")
    for key in settings:
        if key not in SECTIONS:
            meant = did_you_mean(key, SECTIONS) or ";"
            raise ConfigError(f"{path}: unknown key {key!r}{meant} expected {', '.join(SECTIONS)}")
    for key, kinds in _KINDS.items():
        if key in settings and not isinstance(settings[key], kinds):
            raise ConfigError(f"{path}: {key} is {settings[key]!r}: expected a mapping of settings")
    translated: dict[str, Any] = with_current_class_paths(settings)
    return translated


def part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Section of a config or of a section; empty if it is missing or a class name alone."""
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def names_model(settings: dict[str, Any]) -> bool:
    """Whether a config names an architecture; a variant does not."""
    return isinstance(settings.get("model"), str) or bool(part(settings, "model").get("class_path"))


def parents_of(variant: Path) -> list[Path]:
    """Find the parents of a variant by its name and folder, in the order in which they apply.

    Those of ``roma/cnn2_small.yaml`` are ``roma.yaml`` and ``roma/cnn2.yaml``. The former may be
    beside the folder or in ``configs/``.
    """
    folder = variant.parent
    words = variant.stem.split("_")
    candidates = [(folder.parent, f"{folder.name}.yaml")]
    candidates += [(folder, f"{'_'.join(words[:count])}.yaml") for count in range(1, len(words))]
    found: list[Path] = []
    for beside, name in candidates:
        found += [path for path in (beside / name, CONFIGS / name) if path.is_file()][:1]
    return [path for path in found if path != variant]


def with_parents(paths: Sequence[Path], has_model: bool = False) -> list[Path]:
    """Put the parents of a variant before it, unless an earlier config names the model.

    Args:
        paths: Configs in the order in which they apply.
        has_model: Whether the command line names the model.
    """
    completed: list[Path] = []
    for path in paths:
        names_it = names_model(read_config(path))
        if not has_model and not names_it:
            parents = parents_of(path)
            completed += parents
            has_model = bool(parents)
        completed.append(path)
        has_model = has_model or names_it
    return completed


def chain(name: str) -> list[Path]:
    """Find a config and the configs that it is applied to, the base config first.

    Args:
        name: Path, or name in ``configs/``; several are joined by ``+`` and apply in this order.

    Raises:
        ConfigError: A config does not exist, or none names a model.
    """
    paths = with_parents([find_config(part) for part in name.split("+")])
    if not any(names_model(read_config(path)) for path in paths):
        raise ConfigError(
            f"{paths[0]} names no model (model.class_path) and is not a variant of a known "
            f"config: put the config of its architecture before it, as in unet+{paths[0].stem}"
        )
    return [CONFIGS / "base.yaml", *paths]
