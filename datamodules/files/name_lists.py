"""Lists of file names on standard input, as ``find`` and others write them."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from datamodules.errors import DataError

_HEAD_BYTES = 2**16
# Names hardly contain control characters; the headers of audio formats do.
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f]")
_UTF8_MARK = b"\xef\xbb\xbf"


def read_names(stream: BinaryIO) -> list[str]:
    """Read a list of names, one per line, or separated by NUL as by ``find -print0``.

    Raises:
        DataError: The stream is audio, or contains no names.
    """
    head = stream.read(_HEAD_BYTES)
    first = re.split(rb"[\0\n]", head, maxsplit=1)[0]
    if _CONTROL.search(head) and not os.path.lexists(os.fsdecode(first)):
        raise DataError(
            "-: standard input is not a list of names, as - expects; if it is audio, give "
            "/dev/stdin in place of -"
        )
    content = head.removeprefix(_UTF8_MARK) + stream.read()
    if b"\0" in content:
        names = content.split(b"\0")
    else:
        names = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    found = [os.fsdecode(name) for name in names if name.strip()]
    if not found:
        raise DataError("-: standard input contains no names; expected one per line")
    return found
