"""Check settings of the trainer that Lightning accepts, and that do nothing or something else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lightning_modules.configuration.messages import SettingError

_SCORES = ("sdr", "usdr", "isr", "sir", "sar")
_AVERAGES = ("EMA", "BestEMA", "ScheduleFree")
Accepts = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at_least(least: float, or_also: float | None = None) -> Accepts:
    return lambda value: _is_number(value) and (value >= least or value == or_also)


def _part_or_count(value: Any) -> bool:
    """Whether a value is a fraction in (0, 1] or a number of batches."""
    return _is_number(value) and (value >= 1 if isinstance(value, int) else 0 < value <= 1)


def _interval(value: Any) -> bool:
    return _part_or_count(value) or isinstance(value, str | dict)


def _is_duration(value: Any) -> bool:
    """Whether a duration is above zero; Lightning checks its form."""
    numbers = value.values() if isinstance(value, dict) else re.findall(r"\d+", str(value))
    return any(float(number) > 0 for number in numbers)


_PARTS = "a fraction above 0 and up to 1.0, or a number of batches from 1 on"
_COUNT = "-1 for no limit, or a number from 1 on"
_RULES: dict[str, tuple[Accepts, str]] = {
    "max_epochs": (_at_least(1, -1), _COUNT),
    "max_steps": (_at_least(1, -1), _COUNT),
    "max_time": (_is_duration, "a duration above 0, such as 00:12:00:00"),
    "min_epochs": (_at_least(0), "a number from 0 on"),
    "min_steps": (_at_least(0), "a number from 0 on"),
    "limit_train_batches": (_part_or_count, _PARTS),
    "log_every_n_steps": (_at_least(1), "a number from 1 on; --trainer.logger=false logs nothing"),
    "check_val_every_n_epoch": (
        _at_least(1),
        "a number from 1 on; --trainer.limit_val_batches=0 validates nothing",
    ),
    "val_check_interval": (
        _interval,
        f"{_PARTS}; --trainer.limit_val_batches=0 validates nothing",
    ),
    "accumulate_grad_batches": (_at_least(1), "a number from 1 on"),
    "gradient_clip_val": (_at_least(0), "a number above 0, or null for no clipping"),
    "num_nodes": (_at_least(1), "a number from 1 on"),
    "num_sanity_val_steps": (_at_least(0, -1), "a number from 0 on, or -1 for all"),
}
# Settings whose effect something of ours prevents, their only value, and what to use.
_FIXED: dict[str, tuple[Any, str]] = {
    "overfit_batches": (0, "each epoch has new examples; limit_train_batches shortens epochs"),
    "reload_dataloaders_every_n_epochs": (0, "each epoch draws new examples anyway"),
    "use_distributed_sampler": (False, "the data module distributes examples over ranks itself"),
}
# What each subcommand would not run at all with a limit of 0.
_LIMITS = {"validate": "val", "test": "test", "predict": "predict"}


def check_trainer(trainer: Mapping[str, Any], subcommand: str) -> None:
    """Check the settings of the trainer.

    Raises:
        SettingError: One does nothing, or not what it says.
    """
    # Configs of runs also have the settings of their training, which do not matter elsewhere.
    rules = dict(_RULES) if subcommand == "fit" else {}
    if subcommand in _LIMITS:
        rules[f"limit_{_LIMITS[subcommand]}_batches"] = (_part_or_count, _PARTS)
    for name, (accepts, expected) in rules.items():
        value = trainer.get(name)
        if value is not None and not accepts(value):
            raise SettingError(f"trainer.{name} is {value!r}: give {expected}")
    for name, (only, reason) in _FIXED.items():
        value = trainer.get(name)
        if value is not None and value != only:
            raise SettingError(f"trainer.{name} is {value!r}: has no use here, as {reason}")
    if trainer.get("default_root_dir") is not None:
        raise SettingError("trainer.default_root_dir: the directory is set by --run_dir")
    if trainer.get("gradient_clip_algorithm") and not trainer.get("gradient_clip_val"):
        raise SettingError(
            "trainer.gradient_clip_algorithm does nothing without trainer.gradient_clip_val"
        )
    for low, high in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        least, most = trainer.get(low) or 0, trainer.get(high)
        if most is not None and most != -1 and least > most:
            raise SettingError(f"trainer.{low} is {least}, which is more than {high}, {most}")


def check_callbacks(trainer: Mapping[str, Any], sources: Collection[str]) -> None:
    """Refuse a second callback of a class of ours, and metrics that do not exist.

    Args:
        trainer: Settings of the trainer.
        sources: Names of the model's sources.

    Raises:
        SettingError: The message names callback and setting.
    """
    callbacks = trainer.get("callbacks") or []
    paths = [str(getattr(callback, "class_path", "")) for callback in callbacks]
    for path, number in Counter(paths).items():
        if number > 1 and path.startswith("lightning_modules."):
            name = path.rpartition(".")[2]
            raise SettingError(
                f"trainer.callbacks has {name} {number} times, but only one can work: `callbacks+` "
                "adds to the list of base.yaml, and `callbacks` replaces it; give a list with one"
            )
    averages = [name for path in paths if (name := path.rpartition(".")[2]) in _AVERAGES]
    if len(averages) > 1:
        raise SettingError(
            f"trainer.callbacks has {' and '.join(averages)}, but only one can replace the weights "
            "by an average: give a list `callbacks` with one of them"
        )
    if not all(path.startswith(("lightning_modules.", "pytorch_lightning.")) for path in paths):
        return  # others may log further metrics
    has_scores = any(path.endswith(".BSSEval") for path in paths)
    for path, callback in zip(paths, callbacks, strict=True):
        monitor = callback.get("init_args", {}).get("monitor")
        stops = path.endswith(".EarlyStopping")
        if monitor is None or not (stops or path.endswith((".Checkpoints", ".ModelCheckpoint"))):
            continue
        known = _metrics(sources, has_scores or not stops)
        if not any(re.fullmatch(pattern, monitor) for pattern in known):
            names = ["val/loss", *(f"val/{name}" for name in _SCORES if has_scores)]
            raise SettingError(
                f"trainer.callbacks.{path.rpartition('.')[2]}: monitor is {monitor!r}, which is "
                f"not logged; give {', '.join(names)}, or one of a source, such as {names[-1]}/"
                f"{next(iter(sources))}"
            )
        if stops and monitor.startswith("val/") and trainer.get("limit_val_batches") == 0:
            raise SettingError(
                f"trainer.callbacks.EarlyStopping: monitor is {monitor!r}, but "
                "trainer.limit_val_batches is 0, which validates nothing"
            )


def _metrics(sources: Collection[str], with_scores: bool) -> list[str]:
    """Patterns of the names of metrics."""
    source = "|".join(map(re.escape, sources))
    scores = rf"val/({'|'.join(_SCORES)})(/({source}))?"
    return [r"(train|val)/loss(/.+)?", r"train/grad_norm", *([scores] if with_scores else [])]
