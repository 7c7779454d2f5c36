"""Config files: where they are, and what can be told of them without Lightning."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SECTIONS = ("seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only", "run_dir")


class ConfigError(ValueError):
    """A config or an argument cannot be used; the message names it and the remedy."""


def find_config(name: str) -> Path:
    """Find a config by path, or by name in ``configs/``.

    Args:
        name: A path, or a name with or without ``.yaml``.

    Returns:
        The file.

    Raises:
        ConfigError: There is no such file.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if name and path.is_file():
            return path.resolve()
    known = [path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "base"]
    close = difflib.get_close_matches(Path(name).stem, known, 1)
    raise ConfigError(
        f"config {name!r} does not exist, here or in {CONFIGS};"
        + (f" did you mean {close[0]}.yaml?" if close else "")
        + f" there are: {architectures()}"
    )


def architectures() -> str:
    """List the configs of architectures, for messages; variants, ``unet_small``, are left out."""
    paths = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem != "base")
    names = ", ".join(path.name for path in paths if not parents_of(path))
    return f"{names}, and variants of them"


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand once only; the plain loader keeps the last in silence."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice; keep one of them", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config and check its outline.

    Args:
        path: The YAML file.

    Returns:
        Its contents.

    Raises:
        ConfigError: It is no YAML mapping, a key stands twice, or a section is unknown.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).replace("<unicode string>", path.name).split())
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: holds {type(settings).__name__}, a mapping was expected")
    for key in settings:
        if key not in SECTIONS:
            close = difflib.get_close_matches(str(key), SECTIONS, 1)
            raise ConfigError(
                f"{path}: unknown key {key!r};"
                + (f" did you mean {close[0]!r}?" if close else "")
                + f" expected {', '.join(SECTIONS)}"
            )
    return settings


def part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Take a part of a config.

    Args:
        settings: The config, or a part of it.
        name: The part's name.

    Returns:
        The part; empty if it is absent, or a bare class name.
    """
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def names_model(settings: dict[str, Any]) -> bool:
    """Whether a config names an architecture, in place of varying one.

    Args:
        settings: The config.
    """
    return isinstance(settings.get("model"), str) or bool(part(settings, "model").get("class_path"))


def parents_of(variant: Path) -> list[Path]:
    """Find the configs beside one that it is named after, as ``unet`` of ``unet_small``.

    Args:
        variant: The config.

    Returns:
        The files, the nearest first.
    """
    words = variant.stem.split("_")
    stems = ["_".join(words[:count]) for count in range(len(words) - 1, 0, -1)]
    parents = [variant.with_name(f"{stem}.yaml") for stem in stems]
    return [path for path in parents if path.is_file()]


def chain(name: str) -> list[Path]:
    """Find a config, with those that it stands on top of in front.

    Args:
        name: Path, or name in ``configs/``. A variant is named after what it varies, as
            ``unet_small`` after ``unet``; several are put together by ``+``, each on top of
            the one before.

    Returns:
        The files, the base config first.

    Raises:
        ConfigError: There is no such config.
    """
    paths = [find_config(part) for part in name.split("+")]
    first = paths[0]
    if not names_model(read_config(first)):
        parents = parents_of(first)
        if not parents:
            raise ConfigError(
                f"{first} names no model (model.class_path) and is named after no other config: "
                f"put its architecture in front, as in unet+{first.stem}"
            )
        paths = [*chain(str(parents[0]))[1:], *paths]
    return [CONFIGS / "base.yaml", *paths]
