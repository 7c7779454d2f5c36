"""Progress bars."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from tqdm import tqdm

# Between two lines in a file or pipe, seconds.
_LINE_SECONDS = 30


class Bar(tqdm):  # type: ignore[type-arg]
    """Progress bar on stderr; in a file or pipe, such as a log of a cluster, a line now and then.

    Arguments are those of ``tqdm``.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._in_terminal, self._printed = sys.stderr.isatty(), time.monotonic()
        if not self._in_terminal:
            keywords["file"] = io.StringIO()  # for what moves the cursor of a terminal
        super().__init__(*arguments, **keywords)

    def display(  # type: ignore[override]  # the stub says that it returns nothing
        self, msg: str | None = None, pos: int | None = None
    ) -> bool:
        """Show the bar, or print it as a line if it is time; an empty message clears it."""
        if self._in_terminal:
            return bool(super().display(msg, pos))
        if msg is None and time.monotonic() - self._printed >= _LINE_SECONDS:
            self._printed = time.monotonic()
            print(self, file=sys.stderr, flush=True)
        return False
