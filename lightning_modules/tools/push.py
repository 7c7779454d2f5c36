"""Publish a separator on the Hugging Face Hub: ``stemlab push best.ckpt user/name``.

Others then load it by ``separate song.mp3 --model user/name`` or ``load_separator("user/name")``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from lightning_modules.base.description import CARD, CONFIG, WEIGHTS, check_is_there
from lightning_modules.interop import hub
from lightning_modules.tools import export


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish a model; return the exit status: 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: _run(options), "stopped; nothing was published")


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser(
        "lightning_modules.tools.push",
        description="Publish a model on the Hugging Face Hub. Log in first, with `hf auth login` "
        "or by HF_TOKEN.",
    )
    add = parser.add_argument
    add("model", type=Path, help="a folder that `export` wrote, or a checkpoint of `fit`")
    add("name", metavar="USER/NAME", help="name on the Hub: a user or organisation, and a name")
    add("--public", action="store_true", help="let everybody see a new model (default: only you, "
        "until you change it on its page)")  # fmt: skip
    add("--update", action="store_true", help="add a commit to a model that is there")
    add("--message", default="Upload by Stemlab", metavar="TEXT", help="message of the commit")
    export.add_card_options(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    check_is_there(options.model)
    hub.check_name(options.name)
    export.check_card_options(options)
    if options.model.is_dir():
        _check_folder(options)
    hub.check_login()
    if options.model.is_dir():
        return _push(options.model, options)
    with tempfile.TemporaryDirectory(prefix="stemlab-push-") as temporary:
        folder = Path(temporary, options.name.partition("/")[2])
        words = [str(options.model), "-o", str(folder)]
        for name in ("license", "dataset", "scores"):
            if (value := getattr(options, name)) is not None:
                words += [f"--{name}", str(value)]
        export.export(export.build_parser().parse_args(words))
        return _push(folder, options)


def _check_folder(options: argparse.Namespace) -> None:
    """Raise unless the folder is complete, and the card's options are left to ``export``."""
    folder = options.model
    if missing := [name for name in (CONFIG, WEIGHTS, CARD) if not (folder / name).is_file()]:
        raise hub.PublishError(
            f"{folder}: has no {' and no '.join(missing)}; give a folder that `export` wrote, or "
            "a checkpoint"
        )
    default = export.build_parser().parse_args([str(folder), "-o", "unused"])
    for name in ("license", "dataset", "scores"):
        if getattr(options, name) != getattr(default, name):
            raise hub.PublishError(
                f"--{name}: {folder / CARD} is written already: edit it, or give the checkpoint in "
                "place of the folder"
            )


def _push(folder: Path, options: argparse.Namespace) -> int:
    commit = hub.publish(
        folder,
        options.name,
        public=options.public,
        update=options.update,
        message=options.message,
    )
    print(f"{hub.page(options.name)}: published as {options.name}@{commit}")
    if not (options.public or options.update):
        print("Only you can see a new model; --public, or Settings on its page, changes that.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
