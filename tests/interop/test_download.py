from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.files.writing import WritingError
from lightning_modules.interop import download as module
from lightning_modules.interop.download import DownloadError, UnreachableError, download
from tests.helpers.file_server import FileServer, serving
from tests.helpers.small_disk import small_disk

CONTENTS = random.Random(0).randbytes(300_000)
BLOCK = 2**14
DIGEST = hashlib.sha256(CONTENTS).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    with serving() as state:
        state.files["/model.ckpt"] = CONTENTS
        yield state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.ckpt"


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("digest", ["", DIGEST[:8], DIGEST])
def test_a_file_is_downloaded_and_its_digest_returned(
    server: FileServer, path: Path, digest: str
) -> None:
    assert download(f"{server.url}/model.ckpt", path, digest) == DIGEST
    assert path.read_bytes() == CONTENTS
    assert names(path.parent) == ["model.ckpt"]


def test_progress_tells_size_and_rate(
    server: FileServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    download(f"{server.url}/model.ckpt", path)
    assert capsys.readouterr().err == "", "nothing that overwrites lines in a file"
    path.unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download(f"{server.url}/model.ckpt", path)
    shown = capsys.readouterr().err
    assert "model.ckpt" in shown
    assert "300k" in shown
    assert "B/s" in shown


def test_another_file_than_expected_is_refused_and_not_kept(server: FileServer, path: Path) -> None:
    with pytest.raises(DownloadError, match=rf"{DIGEST}, but 00ff was expected.*try again"):
        download(f"{server.url}/model.ckpt", path, "00ff")
    assert names(path.parent) == []


def test_a_cut_connection_is_continued(server: FileServer, path: Path) -> None:
    server.cuts = [3 * BLOCK, 2 * BLOCK]
    assert download(f"{server.url}/model.ckpt", path, DIGEST) == DIGEST
    assert [wanted for _, wanted in server.requests] == [
        "",
        f"bytes={3 * BLOCK}-",
        f"bytes={5 * BLOCK}-",
    ]


@pytest.mark.parametrize("digest", ["", DIGEST])
def test_a_later_command_continues(server: FileServer, path: Path, digest: str) -> None:
    server.cuts = [6 * BLOCK, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"broke off after 0.1 MB.*same command continues"):
        download(f"{server.url}/model.ckpt", path, digest)
    server.requests.clear()
    server.cuts.clear()
    assert download(f"{server.url}/model.ckpt", path, digest) == DIGEST
    assert server.requests == [("/model.ckpt", f"bytes={6 * BLOCK}-")]
    assert names(path.parent) == ["model.ckpt"]


def test_a_file_without_digest_that_has_changed_is_not_continued(
    server: FileServer, path: Path
) -> None:
    server.cuts = [6 * BLOCK, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        download(f"{server.url}/model.ckpt", path)
    other = CONTENTS[::-1]
    server.files["/model.ckpt"], server.tag, server.cuts = other, '"second"', []
    assert download(f"{server.url}/model.ckpt", path) == hashlib.sha256(other).hexdigest()


def test_without_digest_and_tag_nothing_of_an_earlier_command_is_used(
    server: FileServer, path: Path
) -> None:
    server.tag = ""
    path.with_name("model.ckpt.part").write_bytes(b"of another version")
    assert download(f"{server.url}/model.ckpt", path) == DIGEST
    assert server.requests == [("/model.ckpt", "")]


def test_a_server_that_cannot_continue_sends_all_again(server: FileServer, path: Path) -> None:
    server.ranges, server.cuts = False, [6 * BLOCK]
    assert download(f"{server.url}/model.ckpt", path, DIGEST) == DIGEST
    assert path.read_bytes() == CONTENTS


def test_a_complete_part_is_only_checked(server: FileServer, path: Path) -> None:
    path.with_name("model.ckpt.part").write_bytes(CONTENTS)
    assert download(f"{server.url}/model.ckpt", path, DIGEST) == DIGEST
    assert server.requests == [("/model.ckpt", f"bytes={len(CONTENTS)}-")]


def test_a_part_that_is_too_long_is_dropped(server: FileServer, path: Path) -> None:
    path.with_name("model.ckpt.part").write_bytes(CONTENTS + b"more")
    assert download(f"{server.url}/model.ckpt", path, DIGEST) == DIGEST


def test_a_busy_server_is_asked_again(server: FileServer, path: Path) -> None:
    server.statuses = [503, 429]
    assert download(f"{server.url}/model.ckpt", path, DIGEST) == DIGEST


def test_a_server_that_stays_busy_is_named(server: FileServer, path: Path) -> None:
    server.statuses = [503] * 10
    with pytest.raises(DownloadError, match=r"model.ckpt: cannot be downloaded: .* answers 503"):
        download(f"{server.url}/model.ckpt", path, DIGEST)
    assert len(server.requests) == 4


def test_a_file_that_has_moved_is_named_at_once(server: FileServer, path: Path) -> None:
    with pytest.raises(DownloadError, match=r"gone.ckpt: the server answers 404 .*moved"):
        download(f"{server.url}/gone.ckpt", path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Log in</title>", b"\n<html><body>"])
def test_a_web_page_instead_of_the_file(server: FileServer, path: Path, page: bytes) -> None:
    server.files["/model.ckpt"] = page
    with pytest.raises(DownloadError, match=r"web page instead of the file.*in a browser"):
        download(f"{server.url}/model.ckpt", path)
    assert not path.exists()


def test_without_a_connection(path: Path) -> None:
    with serving() as stopped:
        url = f"{stopped.url}/model.ckpt"
    with pytest.raises(UnreachableError, match=r"model.ckpt: cannot be downloaded: .*refused"):
        download(url, path)


def test_a_proxy_is_used(server: FileServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["http://models.invalid/model.ckpt"] = CONTENTS
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    assert download("http://models.invalid/model.ckpt", path, DIGEST) == DIGEST


def test_a_full_disk_is_told_before_the_download(server: FileServer, tmp_path: Path) -> None:
    told = pytest.raises(DataError, match=r"model.ckpt: its download needs at least 0.3 MB")
    with small_disk(tmp_path / "disk", kilobytes=64) as folder, told:
        download(f"{server.url}/model.ckpt", folder / "model.ckpt", DIGEST)


def test_a_disk_that_fills_up(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_room", lambda *_: None)  # another program fills it later
    with small_disk(tmp_path / "disk", kilobytes=64) as folder:
        with pytest.raises(WritingError, match=r"model.ckpt: could not be written \(No space left"):
            download(f"{server.url}/model.ckpt", folder / "model.ckpt", DIGEST)
        assert names(folder) == ["model.ckpt.etag", "model.ckpt.part"]
