"""What a resumed run changes: its config against the config.yaml of the checkpoint's run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.files.writing import replacing
from lightning_modules.base.parameter_groups import layout
from lightning_modules.configuration.files import ConfigError, read_config
from lightning_modules.configuration.messages import SettingError

CONFIG = "config.yaml"
# A copy of it that users do not edit: what they change in the other one is a change, too.
AS_RUN = ".config.yaml"
_UNTIL = "config_until_step_"
# Settings of a start, not of a run.
OF_A_START = ("config", "ckpt_path", "weights_only", "run_dir", "trainer.default_root_dir")
# Where the logs of a run are written is chosen at each start.
_NOT_COMPARED = {*OF_A_START, "trainer.logger"}
# Settings on which the number of batches in an epoch depends.
_BATCHES = (
    "data.init_args.batch_size",
    "data.init_args.examples_per_epoch",
    "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches",
)
_CLASSES = {
    "model.init_args.optimizer": "the state in the checkpoint is of another optimiser",
    "model.init_args.lr_scheduler": "the state in the checkpoint is of another scheduler",
    "model.init_args.lora": "the checkpoint's weights have other adapters",
}
_GROUPS = "model.init_args.parameter_groups"
_AVERAGES = {f"trainer.callbacks.{name}" for name in ("EMA", "BestEMA", "ScheduleFree")}
_NUMBERS = {f"trainer.callbacks.BestEMA.init_args.{name}" for name in ("per_step", "per_epoch")}


class Change(NamedTuple):
    """A setting that differs from that of the checkpoint's run."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} -> {_short(self.after)}"


def stored_config(checkpoint: Path, step: int) -> dict[str, Any] | None:
    """Read the config with which a run saved a checkpoint at a step.

    A run that was resumed with other settings, and killed before it saved anything, has left their
    ``config.yaml``, but not the checkpoint.

    Returns:
        The config; None if there is none that can be read.
    """
    folder = checkpoint.resolve().parent.parent
    former = sorted((until, path) for path in folder.glob(f"{_UNTIL}*") if (until := _step(path)))
    paths = [path for until, path in former if until >= step][:1]
    for path in paths or (folder / AS_RUN, folder / CONFIG):
        with suppress(ConfigError, OSError):
            return read_config(path)
    return None


def save_config(folder: Path, text: str, step: int) -> None:
    """Write a run's config; keep a former one with other settings, which ran until this step."""
    former = next((path for name in (AS_RUN, CONFIG) if (path := folder / name).is_file()), None)
    kept = folder / f"{_UNTIL}{step:06d}.yaml"
    if former and (before := former.read_text()) != text and not kept.exists():
        with replacing(kept) as unfinished:
            unfinished.write_text(before)
    for name in (AS_RUN, CONFIG):
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text)


def _step(path: Path) -> int:
    digits = path.stem.removeprefix(_UNTIL)
    return int(digits) if digits.isdecimal() else 0


def find_changes(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[Change]:
    """List the settings of a config that differ from those of an earlier run.

    A setting that only one of them has is of another version of the program, and left out.
    """
    return [
        change
        for change in _differences(dict(stored), dict(config), "")
        if not any(change.key == key or change.key.startswith(f"{key}.") for key in _NOT_COMPARED)
    ]


def _differences(before: Any, after: Any, key: str) -> Iterator[Change]:
    if _is_section(before, key) and _is_section(after, key):
        if before.get("class_path") != after.get("class_path"):
            yield Change(key, before.get("class_path"), after.get("class_path"))
            return
        for name in after:
            if name in before:
                yield from _differences(before[name], after[name], f"{key}.{name}".strip("."))
    elif _has_classes(before) and _has_classes(after):
        yield from _differences_of_lists(_by_class(before), _by_class(after), key)
    elif before != after:
        yield Change(key, before, after)


def _differences_of_lists(
    before: dict[str, Any], after: dict[str, Any], key: str
) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *after]):
        if name in before and name in after:
            former, new = (each[name].get("init_args") or {} for each in (before, after))
            yield from _differences(former, new, f"{key}.{name}.init_args")
        else:
            found = ["used" if name in each else "not used" for each in (before, after)]
            yield Change(f"{key}.{name}", *found)
    orders = [name for name in before if name in after], [name for name in after if name in before]
    if orders[0] != orders[1]:
        yield Change(f"{key} (order)", *orders)


def _is_section(value: Any, key: str) -> bool:
    """Whether a value is a group of settings, and not one setting that is a dictionary."""
    is_group = key in ("", "trainer", "model", "data") or key.endswith("init_args")
    return isinstance(value, dict) and (is_group or "class_path" in value)


def _has_classes(value: Any) -> bool:
    return isinstance(value, list) and all(_is_section(each, "-") for each in value)


def _by_class(values: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings by class name, with a number for the second one of a class."""
    named: dict[str, Any] = {}
    for value in values:
        name = str(value["class_path"]).rpartition(".")[2]
        same = sum(each.partition(" ")[0] == name for each in named)
        named[f"{name} {same + 1}" if same else name] = value
    return named


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_changes(changes: list[Change], checkpoint: Path, position: str) -> None:
    """Refuse changes that cannot be taken into a run.

    Args:
        changes: Settings that differ from those of the checkpoint's run.
        checkpoint: The checkpoint's file.
        position: Where within an epoch the checkpoint was saved; empty at the end of one.

    Raises:
        SettingError: The message lists the changes and says what to do instead.
    """
    refused = [
        f"{change} ({reason})" for change in changes if (reason := _obstacle(change, position))
    ]
    if not refused:
        return
    weights = f"--model.init_args.pretrained={checkpoint}"
    ways = [f"start a new run from its weights with {weights} instead of --ckpt_path"]
    if position:
        ways.insert(0, "resume from a checkpoint at the end of an epoch, such as one of the best")
    config = checkpoint.resolve().parent.parent / CONFIG
    ways.insert(0, f"keep the run's settings, which are in {config}")
    raise SettingError(
        f"{checkpoint} cannot be resumed with {'; '.join(refused)}: {'; or '.join(ways)}"
    )


def _obstacle(change: Change, position: str) -> str:
    """Why a change cannot be taken; empty if it can."""
    if change.key in _CLASSES:
        return _CLASSES[change.key]
    if change.key == "model.init_args.pretrained" and change.after is not None:
        return "the checkpoint's weights would replace these"
    if change.key == _GROUPS and layout(change.before) != layout(change.after):
        return "the state in the checkpoint is of other groups of weights"
    if change.key in _AVERAGES and change.after == "not used":
        return "its weights are the average"
    if change.key in _NUMBERS and len(change.before) != len(change.after):
        return "the checkpoint holds another number of averages"
    if change.key in _BATCHES and position:
        return f"the checkpoint is {position}"
    return ""


def report(changes: list[Change]) -> str:
    """Text about the changes that a resumed run takes."""
    lines = ["Changed against the checkpoint's run:"]
    lines += [f"  {change} (taken)" for change in changes]
    if any(change.key.startswith(("data.", "seed_everything")) for change in changes):
        lines.append("  The run no longer continues as if it had never stopped: its data changed.")
    return "\n".join(lines)
