"""Render the demo corpus and print its folder: ``python -m datamodules.demo [ROOT]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line

_SONGS = 18  # those of the demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the corpus and print its folder.

    Args:
        arguments: Command line; by default this process's.

    Returns:
        Exit status: 0, or 2 for a mistake that the message on stderr explains.
    """
    options = build_parser().parse_args(arguments)

    def render() -> int:
        from datamodules.demo.corpus import demo_corpus  # takes a second

        print(demo_corpus(options.root, options.seed, range(options.songs)))
        return 0

    return command_line.run(render)


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("datamodules.demo", description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, help="folder; by default in the user's cache")
    parser.add_argument(
        "--seed",
        type=command_line.count(0),
        default=0,
        help="of the songs; each seed gives others",
    )
    parser.add_argument(
        "--songs",
        type=command_line.count(_SONGS),
        default=_SONGS,
        help=f"number of songs, about 22 MB each; all beyond {_SONGS} are for training",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
