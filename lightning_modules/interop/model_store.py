"""Published models on this computer: downloaded once into a folder of the user, then loaded.

Environment variables:
    STEMLAB_MODELS: The folder, by default ``stemlab/models`` among the user's data.
    STEMLAB_MODELS_URL: A mirror; it has the files as ``<model>/<file>`` below this address.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from datamodules.files.writing import replacing, writing
from datamodules.locks import file_lock
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop.download import UnreachableError, download, file_sha256
from lightning_modules.interop.published import (
    NOT_STATED,
    PublishedFile,
    PublishedModel,
    check_supported,
)

if TYPE_CHECKING:
    from lightning_modules.base.separator import SourceSeparator

Progress = Callable[[float], None]
FOLDER_VARIABLE, MIRROR_VARIABLE = "STEMLAB_MODELS", "STEMLAB_MODELS_URL"
_LOCK, _RECORD = ".lock", "checked.json"


def models_folder() -> Path:
    """Return the folder of all downloaded models."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(data, "stemlab", "models")).expanduser()


def folder_of(model: PublishedModel) -> Path:
    """Return the folder of a model's files."""
    return models_folder() / model.name


def is_complete(model: PublishedModel) -> bool:
    """Whether all files of a model are on this computer."""
    return all((folder_of(model) / file.name).is_file() for file in model.files)


def fetch(model: PublishedModel, progress: Progress = lambda part: None) -> Path:
    """Download what is missing of a model, and check all its files.

    Files are checked again only if their size or time of change differs. Licence and citation are
    printed on stderr the first time. Other processes that want the same model wait.

    Args:
        model: The model.
        progress: Called with the part of its files that is there, 0 to 1.

    Returns:
        The folder of its files.

    Raises:
        CheckpointError: The model cannot be used here, or a file that is there is another one.
        DownloadError: A file cannot be downloaded.
        WritingError: The folder cannot be written to.
    """
    check_supported(model)
    folder = folder_of(model)
    record = _read_record(folder)
    if all(_is_checked(folder, file, record) for file in model.files):
        return folder
    if is_complete(model) and not os.access(folder, os.W_OK):  # a folder that others maintain
        for file in model.files:
            _checked(model, folder, file, {})
        return folder
    with writing(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LOCK).touch()
    with file_lock(folder / _LOCK, lambda: _say(f"waiting for another download of {model.name}")):
        record = _read_record(folder)  # the other process may have downloaded it
        if not record:
            _say(notice(model))
        for number, file in enumerate(model.files):

            def report(part: float, before: int = number) -> None:
                progress((before + part) / len(model.files))

            if not _is_checked(folder, file, record):
                record[file.name] = _checked(model, folder, file, record, report)
                with replacing(folder / _RECORD) as unfinished:
                    unfinished.write_text(json.dumps(record, indent=2) + "\n")
    return folder


def load(model: PublishedModel) -> SourceSeparator:
    """Download a model if necessary, and build a separator from its files.

    Raises:
        CheckpointError: Its files cannot be imported; otherwise as ``fetch``.
    """
    folder = fetch(model)
    return IMPORTERS[model.importer](model, folder).eval()


def notice(model: PublishedModel) -> str:
    """Return what a user should know of a model: licence and citation."""
    weights = model.weights_licence
    if weights == NOT_STATED:
        weights = "not stated: ask its authors before you publish or sell what you make with it"
    return (
        f"{model.name}: {model.about}\n"
        f"  licence of the weights: {weights}; of the authors' code: {model.code_licence}\n"
        f"  please cite: {model.citation}\n"
        f"  {model.page}"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read_record(folder: Path) -> dict[str, Any]:
    """Return what is known of checked files: digest, size and time of change, by name."""
    try:
        record = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_checked(folder: Path, file: PublishedFile, record: dict[str, Any]) -> bool:
    sha256 = _known_sha256(file, record)
    with suppress(OSError):
        return record.get(file.name) == _entry(folder / file.name, sha256)
    return False


def _known_sha256(file: PublishedFile, record: dict[str, Any]) -> str:
    """Return the digest that the file had when it was checked; else the published one."""
    pinned = record.get(file.name, {}).get("sha256", "")
    return pinned if pinned.startswith(file.sha256) else file.sha256


def _entry(path: Path, sha256: str) -> dict[str, Any]:
    """Return what the record says of a file."""
    stat = path.stat()
    return {"sha256": sha256, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _checked(
    model: PublishedModel,
    folder: Path,
    file: PublishedFile,
    record: dict[str, Any],
    progress: Progress = lambda part: None,
) -> dict[str, Any]:
    """Download a file unless it is there; check it, and return its entry in the record."""
    path = folder / file.name
    expected = _known_sha256(file, record)
    if path.is_file():
        digest = file_sha256(path)
        if not digest.startswith(expected):
            raise CheckpointError(
                f"{path}: its SHA-256 is {digest}, but {expected} was expected: delete it, and it "
                "is downloaded again"
            )
    else:
        try:
            digest = download(_address(model, file), path, expected, progress)
        except UnreachableError as error:
            raise UnreachableError(f"{error}\n{_by_hand(model)}") from error
    return _entry(path, digest)


def _address(model: PublishedModel, file: PublishedFile) -> str:
    mirror = os.environ.get(MIRROR_VARIABLE)
    return f"{mirror.rstrip('/')}/{model.name}/{quote(file.name)}" if mirror else file.url


def _by_hand(model: PublishedModel) -> str:
    """Say what to copy where if there is no internet."""
    folder = folder_of(model)
    missing = [file for file in model.files if not (folder / file.name).is_file()]
    lines = [f"Without internet, copy these files to {folder} by hand:"]
    for file in missing:
        renamed = "" if file.url.endswith(f"/{file.name}") else f" as {file.name}"
        lines.append(f"  {file.url}{renamed}")
    lines.append(f"or set {MIRROR_VARIABLE} to the address of a copy on your network.")
    return "\n".join(lines)


def _open_unmix(model: PublishedModel, folder: Path) -> SourceSeparator:
    from lightning_modules.interop import open_unmix

    return _with_chunks(open_unmix.from_package(folder, model.options), model)


def _demucs(model: PublishedModel, folder: Path) -> SourceSeparator:
    from lightning_modules.architectures.ensemble import Ensemble
    from lightning_modules.interop import demucs

    members: list[SourceSeparator] = [
        _with_chunks(demucs.from_package(folder / file.name, **model.options), model)
        for file in model.files
    ]
    return members[0] if len(members) == 1 else Ensemble(members, model.weights)


def _msst(model: PublishedModel, folder: Path) -> SourceSeparator:
    from lightning_modules.interop import msst

    config, weights = (folder / file.name for file in model.files)
    return _with_chunks(msst.load(config, weights, **model.options).model, model)


def _with_chunks(separator: SourceSeparator, model: PublishedModel) -> SourceSeparator:
    """Set the chunk length that is recommended for a model, also in what is saved of it."""
    if model.chunk_seconds:
        separator.segment_seconds = separator.hparams["chunk_seconds"] = model.chunk_seconds
    return separator


IMPORTERS: dict[str, Callable[[PublishedModel, Path], SourceSeparator]] = {
    "open_unmix": _open_unmix,
    "demucs": _demucs,
    "msst": _msst,
}
