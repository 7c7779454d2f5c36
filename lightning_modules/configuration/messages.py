"""Error messages about settings."""

from __future__ import annotations

import importlib
import inspect
import re

from datamodules.errors import did_you_mean


class SettingError(ValueError):
    """A setting that was parsed but cannot be used; the message names it and the remedy."""


def simplify_parser_error(message: str) -> str:
    """Shorten jsonargparse's message about all types that a value does not have to one line.

    For an unknown argument, the most similar known one is added.
    """
    message = re.sub(
        r"Call to compute_fn of link .*? failed: ", "data.init_args.sources: ", message
    )
    kept: list[str] = []
    for line in message.splitlines():
        line = line.strip().removeprefix("- ")
        line = line.replace("Does not validate against any of the Union subtypes", "").strip()
        noise = line.startswith(
            ("Subtypes:", "Errors:", "Given value type:", "Expected a <class 'N")
        )
        bulky = line.startswith("Given value:") and ("(" in line or len(line) > 80)
        if line and not noise and not bulky and line not in kept:
            kept.append(line)
    text = " ".join(kept)
    unknown = re.search(r"class_path '([\w.]+)': Option '(\w+)[\w.]*' is not accepted", text)
    return text + (_known_arguments(*unknown.groups()) if unknown else "")


def _known_arguments(class_path: str, name: str) -> str:
    module, _, kind = class_path.rpartition(".")
    ancestors = getattr(importlib.import_module(module), kind).__mro__
    known = {
        parameter
        for ancestor in ancestors
        if ancestor.__module__.startswith(("lightning_modules", "datamodules"))
        for parameter in inspect.signature(ancestor.__init__).parameters
    } - {"self", "kwargs"}
    return did_you_mean(name, known) or f"; known are {', '.join(sorted(known))}"
