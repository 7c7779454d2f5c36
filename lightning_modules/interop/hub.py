"""Models on the Hugging Face Hub: found by ``user/name``, downloaded, and published.

Downloads are kept in the cache of ``huggingface_hub``. Importing this module imports neither torch
nor ``huggingface_hub``. Environment variables: ``HF_TOKEN``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``,
``HF_ENDPOINT`` and others of that package.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.base.description import CARD, CONFIG, WEIGHTS, CheckpointError, one_line
from lightning_modules.interop.download import DownloadError, UnreachableError
from lightning_modules.version import version

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PLACEHOLDER = "USER/NAME"
"""Stands in a card for the name on the Hub, which is known when the model is published."""

_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_NAME = re.compile(
    rf"(?P<scheme>hf:/{{1,2}})?(?P<name>{_PART}/{_PART})(?:@(?P<revision>[\w./-]+))?"
)
# Of files: a mistyped path is none of the Hub's models.
_FILES = (".ckpt", ".yaml", ".yml", ".th", ".pth", ".pt", ".pt2", ".safetensors", ".onnx", ".json")
_SECONDS = 10.0
_LOGIN = (
    "log in with `hf auth login`, or set HF_TOKEN to a token of "
    "https://huggingface.co/settings/tokens"
)


class PublishError(ValueError):
    """A model cannot be published; the message names it, the reason and what to do."""


@dataclass(frozen=True)
class HubModel:
    """A model on the Hub.

    Attributes:
        name: ``user/name``.
        revision: Branch, tag or commit; None for the newest.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the name as users write it."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def find(path: str | Path) -> HubModel | None:
    """Return the model that ``user/name`` or ``user/name@revision`` means; None if it is a path.

    An existing file or folder wins, also a folder that is called as the user; ``hf://user/name``
    is always a model of the Hub.
    """
    match = _NAME.fullmatch(str(path))
    if match is None:
        return None
    user, _, _ = match["name"].partition("/")
    is_local = Path(path).exists() or Path(user).exists() or match["name"].endswith(_FILES)
    if is_local and not match["scheme"]:
        return None
    return HubModel(match["name"], match["revision"])


def fetch(model: HubModel) -> Path:
    """Download config and weights, unless they are on this computer; return their folder.

    Both are of the same commit. Without a connection, what was downloaded before is used.

    Raises:
        UnreachableError: There is no connection, and the files are not on this computer.
        DownloadError: The Hub does not have the model or the revision, or denies access.
        CheckpointError: It is not a model of this project.
    """
    from huggingface_hub import errors, try_to_load_from_cache

    with _downloading(model):
        offline = _connection_error(model)
        try:
            config = _download(model.name, CONFIG, model.revision, offline)
            _check_config(model, config)
            commit = config.parent.name
            if not isinstance(try_to_load_from_cache(model.name, WEIGHTS, revision=commit), str):
                print(f"Downloading {model.name}@{commit} of the Hugging Face Hub", file=sys.stderr)
            _download(model.name, WEIGHTS, commit, offline)
        except errors.LocalEntryNotFoundError as error:
            raise _unreachable(model, offline or error) from error
    return config.parent


def check_name(name: str) -> None:
    """Raise ``PublishError`` unless a text is a name of the Hub, ``user/name``."""
    match = _NAME.fullmatch(name)
    if match is None or match["name"] != name or "--" in name or ".." in name:
        raise PublishError(
            f"{name}: give the name of the model on the Hub as user/name, of letters, digits, "
            "'-', '_' and '.'"
        )


def check_login() -> None:
    """Raise ``PublishError`` if there is no token of the Hub on this computer."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise PublishError(
            f"you are not logged in to the Hugging Face Hub: {_LOGIN} that may write"
        )


def publish(folder: Path, name: str, *, public: bool, update: bool, message: str) -> str:
    """Upload the files of a folder to the Hub in one commit; hidden files are left out.

    Args:
        folder: A folder that ``export`` wrote.
        name: ``user/name``, of a user or an organisation.
        public: Whether everybody can see a new model; an existing one stays as it is.
        update: Whether to add a commit to a model that is there.
        message: Message of the commit.

    Returns:
        The commit, 40 digits.

    Raises:
        PublishError: It cannot be published.
    """
    from huggingface_hub import CommitOperationAdd

    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]
    contents: list[str | bytes] = [
        path.read_text(encoding="utf-8").replace(PLACEHOLDER, name).encode()
        if path.name == CARD
        else str(path)
        for path in files
    ]
    operations = [
        CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=content)
        for path, content in zip(files, contents, strict=True)
    ]
    api = _api()
    with _uploading(name):
        if not _create(api, name, public) and not update and api.file_exists(name, WEIGHTS):
            raise PublishError(
                f"{name}: exists already; give another name, or --update to add a commit to it "
                "(earlier ones stay)"
            )
        done = api.create_commit(name, operations=operations, commit_message=message)
    return done.oid


def page(name: str) -> str:
    """Address of a model's page."""
    return f"{_endpoint() or 'https://huggingface.co'}/{name}"


def _create(api: HfApi, name: str, public: bool) -> bool:
    """Create an empty model; False if there is one of this name."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(name, private=not public)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        return False
    return True


def _endpoint() -> str | None:
    """Address of the Hub or of a mirror; None for the default."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint(), library_name="stemlab", library_version=version())


def _connection_error(model: HubModel) -> Exception | None:
    """Ask for a model once; return the error if the Hub cannot be reached.

    ``hf_hub_download`` repeats its question for half a minute.
    """
    from huggingface_hub import errors

    try:
        _api().model_info(model.name, revision=model.revision, timeout=_SECONDS)
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return error
    except (errors.OfflineModeIsEnabled, _network_error()) as error:
        return error
    return None


def _download(name: str, file: str, revision: str | None, offline: Exception | None) -> Path:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        name, file, revision=revision, endpoint=_endpoint(), local_files_only=offline is not None
    )
    return Path(path)


def _unreachable(model: HubModel, error: Exception) -> UnreachableError:
    return UnreachableError(
        f"{model}: is not on this computer, and the Hub cannot be reached ({_reason(error)})\n"
        f"Without internet, copy {CONFIG} and {WEIGHTS} of {page(model.name)}/tree/"
        f"{model.revision or 'main'} to a folder, and give this folder in place of the name."
    )


def _check_config(model: HubModel, path: Path) -> None:
    """Raise before the weights of another project's model are downloaded."""
    contents: Any = None
    with suppress(ValueError):
        contents = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(contents, dict) or "class_path" not in contents:
        raise CheckpointError(
            f"{model}: is not a model of this project: its {CONFIG} has no class_path; one that "
            "`export` or `push` wrote was expected"
        )


@contextmanager
def _downloading(model: HubModel) -> Iterator[None]:
    """Explain errors of a download."""
    from huggingface_hub import errors

    address = page(model.name)
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{model}: its authors give access on request: ask for it at {address}, then {_LOGIN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{model}: there is no such file or folder, and no such model at {address}, or it is "
            f"private: check the name, or {_LOGIN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(
            f"{model}: has no revision {model.revision}; {address}/commits/main lists them"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise CheckpointError(
            f"{model}: is not a model of this project: {CONFIG} and {WEIGHTS} were expected in "
            f"{address}/tree/{model.revision or 'main'}"
        ) from error
    except (errors.HfHubHTTPError, _network_error(), ConnectionError) as error:
        raise DownloadError(f"{model}: cannot be downloaded: {_reason(error)}") from error


@contextmanager
def _uploading(name: str) -> Iterator[None]:
    """Explain errors of an upload."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = _reason(error)
        if status == 401:
            reason = f"the Hub does not accept the token: {_LOGIN} that may write"
        elif status in (403, 404):
            reason = (
                f"you have no right to write to it ({reason}): check user or organisation, and "
                "that the token may write"
            )
        raise PublishError(f"{name}: {reason}") from error
    except _network_error() as error:
        raise PublishError(
            f"{name}: the Hub cannot be reached ({_reason(error)}); check the connection, and "
            "repeat the command"
        ) from error
    except (RuntimeError, ConnectionError) as error:  # of the upload of large files
        raise PublishError(
            f"{name}: the upload broke off ({_reason(error)}); repeat the command"
        ) from error


def _network_error() -> type[Exception]:
    """The base class of errors of the HTTP client, whose package depends on the version."""
    from huggingface_hub import errors

    base: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    return base


def _reason(error: BaseException) -> str:
    """Return what the server says, or the innermost cause, on one line."""
    while True:
        if message := getattr(error, "server_message", None):
            return one_line(ValueError(message))
        if error.__cause__ is None:
            return one_line(error)
        error = error.__cause__
