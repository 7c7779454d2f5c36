"""Download of one file: resumed after a break, checked, and renamed once it is complete."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.errors import DataError
from datamodules.files.writing import check_room, writing_error

if TYPE_CHECKING:
    import requests

# Of a broken connection, the part of a block that has arrived is lost.
_BLOCK = 2**14
# Seconds to wait for a connection, and for the next bytes.
_TIMEOUT = (10, 60)
# Attempts in a row without a byte, and seconds to wait between them.
_ATTEMPTS = 4
_PAUSE = 1.0
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_HTML = (b"<!doctype html", b"<html")


class DownloadError(DataError):
    """A file could not be downloaded; the message names it, the reason and what to do."""


class UnreachableError(DownloadError):
    """The server cannot be reached: without internet, or the server is down."""


class _BrokenError(Exception):
    """The server was reached; another attempt may succeed."""


def download(
    url: str,
    path: Path,
    sha256: str = "",
    progress: Callable[[float], None] = lambda part: None,
) -> str:
    """Download a file, with a progress bar on stderr.

    What has arrived is kept in ``path`` plus ``.part``, so that an interrupted download continues
    where it stopped, if the server allows it. ``HTTPS_PROXY`` and ``NO_PROXY`` are respected.

    Args:
        url: Address.
        path: The file to write; its folder exists.
        sha256: Its SHA-256 in hexadecimal digits, or the first of them; empty if it is unknown.
        progress: Called with the part that has arrived, 0 to 1; 0 if the size is unknown.

    Returns:
        The SHA-256 of the file, 64 digits.

    Raises:
        UnreachableError: There is no connection to the server.
        DownloadError: The server does not have the file or sends another one, or the connection
            broke again and again.
        WritingError: The disk is full, or the file cannot be written.
    """
    part = Part(path, resumable=bool(sha256))
    attempts = 0
    while True:
        before = part.size
        try:
            _receive(url, part, progress)
            break
        except (UnreachableError, _BrokenError) as error:
            attempts = 1 if part.size > before else attempts + 1
            # Somebody without internet does not have to wait.
            offline = isinstance(error, UnreachableError) and not part.size
            if offline or attempts == _ATTEMPTS:
                raise _given_up(url, part, error) from error
            time.sleep(_PAUSE * attempts)
    digest = file_sha256(part.path)
    if not digest.startswith(sha256):
        size = part.size
        part.remove()
        raise DownloadError(
            f"{url}: the SHA-256 of the {size:,} bytes received is {digest}, but "
            f"{sha256} was expected: the file was changed, or damaged on its way; try again, or "
            "use another source"
        )
    part.finish()
    return digest


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Part:
    """A file that is partly downloaded.

    Args:
        path: The complete file.
        resumable: Whether to continue what another process has left. Without a digest, which
            would tell if the file has changed since then, only if the server can tell that.
    """

    def __init__(self, path: Path, resumable: bool) -> None:
        self.final, self.path = path, path.with_name(path.name + ".part")
        self._tag_path = path.with_name(path.name + ".etag")
        self.tag = self._tag_path.read_text() if self._tag_path.is_file() else ""
        if not (resumable or self.tag):
            self.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def restart(self, tag: str) -> None:
        """Forget what has arrived; ``tag`` is what the server calls this version of the file."""
        self.path.write_bytes(b"")
        self.tag = tag
        # Weak tags cannot be used to continue.
        if tag and not tag.startswith("W/"):
            self._tag_path.write_text(tag)
        else:
            self._tag_path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete what has arrived."""
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the complete file its name."""
        self.path.replace(self.final)
        self._tag_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Convert errors of writing to a ``WritingError``; what has arrived is kept."""
        try:
            yield
        except OSError as error:
            raise writing_error(self.final, self.path, error) from error

    def append(self, blocks: Iterable[bytes]) -> None:
        """Write blocks to the end, and all to disk even if there is an error."""
        with self.writing():
            file = self.path.open("ab")
        try:
            for block in blocks:  # errors of the network are not those of writing
                with self.writing():
                    file.write(block)
        finally:
            with self.writing(), file:
                file.flush()
                os.fsync(file.fileno())


def _receive(url: str, part: Part, progress: Callable[[float], None]) -> None:
    """Receive the file, or what is missing of it."""
    import requests  # takes a tenth of a second

    headers = {"Accept-Encoding": "identity"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.tag:
            headers["If-Range"] = part.tag  # the whole file if it has changed
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise UnreachableError(_reason(error)) from error
    except requests.RequestException as error:
        raise DownloadError(f"{url}: cannot be requested: {_reason(error)}") from error
    try:
        with response:
            _check(url, response, part)
            if response.status_code != 416:
                _write(url, response, part, progress)
    except requests.RequestException as error:
        raise _BrokenError("the connection broke") from error


def _check(url: str, response: requests.Response, part: Part) -> None:
    """Check what the server answers; start from the beginning if it sends the whole file."""
    status = response.status_code
    if status in _RETRIED:
        raise _BrokenError(f"the server answers {status} {response.reason}")
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    if status == 416 and whole == str(part.size):
        return  # all has arrived, but for the check
    if status == 416:
        part.remove()
        raise _BrokenError("the file on the server has changed")
    if status not in (200, 206):
        raise DownloadError(
            f"{url}: the server answers {status} {response.reason}; the file may have moved"
        )
    if "html" in response.headers.get("Content-Type", ""):
        raise _html(url)
    first = response.headers.get("Content-Range", "").partition("-")[0]
    with part.writing():
        if status == 200 or first != f"bytes {part.size}":
            part.restart(response.headers.get("ETag", ""))
    if status == 206 and not part.size and not first.endswith(" 0"):
        raise _BrokenError("the server sent another part of the file")


def _write(
    url: str, response: requests.Response, part: Part, progress: Callable[[float], None]
) -> None:
    from datamodules.progress import Bar

    start = part.size
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    if total:
        check_room(part.path.parent, total - start, f"{part.final.name}: its download needs")
    bar = Bar(
        total=total, initial=start, desc=part.final.name, unit="B", unit_scale=True, leave=False
    )

    def blocks() -> Iterator[bytes]:
        for block in response.iter_content(_BLOCK):
            if bar.n == 0 and block.lstrip()[:14].lower().startswith(_HTML):
                raise _html(url)
            yield block
            bar.update(len(block))
            progress(bar.n / total if total else 0.0)

    with bar:
        part.append(blocks())
    if total and part.size < total:
        raise _BrokenError("the connection broke")


def _html(url: str) -> DownloadError:
    return DownloadError(
        f"{url}: the server sent a web page instead of the file, as the login page of a network "
        "or the error page of a site; open the address in a browser"
    )


def _reason(error: Exception) -> str:
    """Return the innermost cause of a network error, such as `Name or service not known`."""
    while inner := error.__cause__ or error.__context__:
        if not isinstance(inner, Exception):
            break
        error = inner
    strerror = getattr(error, "strerror", None)
    return str(strerror or error) or type(error).__name__


def _given_up(url: str, part: Part, error: Exception) -> DownloadError:
    if part.size:
        return DownloadError(
            f"{url}: broke off after {part.size / 1e6:,.1f} MB: {error}; they are kept, and the "
            "same command continues"
        )
    kind = UnreachableError if isinstance(error, UnreachableError) else DownloadError
    return kind(f"{url}: cannot be downloaded: {error}")
