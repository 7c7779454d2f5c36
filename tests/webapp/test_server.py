"""HTTP responses of the app: songs are available only by their token."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lightning_modules.webapp import rendering
from lightning_modules.webapp.jobs import Jobs
from lightning_modules.webapp.workspace import Limits, Song, Workspace
from tests.helpers.webapp import RATE, catalogue, tiny, upload, write_song

pytestmark = pytest.mark.slow  # Gradio takes seconds to import


@pytest.fixture(scope="module")
def shared_workspace() -> Iterator[Workspace]:
    with Workspace(Limits(minutes=0.1, megabytes=1, keep_minutes=30)) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def client(shared_workspace: Workspace) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from lightning_modules.webapp.server import build_server

    jobs = Jobs(parallel=1, waiting=2)
    models = catalogue(a=tiny(0), b=tiny(1))
    with closing(jobs), TestClient(build_server(models, shared_workspace, jobs)) as client:
        yield client


@pytest.fixture(scope="module")
def song(shared_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Song:
    path = write_song(tmp_path_factory.mktemp("songs") / "Mein Stück.wav", 0.8)
    models = {"a": tiny(0), "b": tiny(1)}
    song = shared_workspace.separate(upload(shared_workspace, path), models)
    rendering.draw(song)
    return song


def test_song_description(client: Any, song: Song) -> None:
    found = client.get(f"/songs/{song.token}").json()
    assert (found["title"], found["sampleRate"], found["channels"]) == ("Mein Stück", RATE, 2)
    assert found["samples"] == song.samples
    assert found["models"] == ["a", "b"]
    assert found["formats"] == rendering.formats(song)
    assert [(track["name"], track["model"]) for track in found["tracks"]] == [
        ("mixture", ""), ("vocals", "a"), ("other", "a"), ("vocals", "b"), ("other", "b"),
    ]  # fmt: skip
    assert [track["power"] for track in found["tracks"]] == song.powers
    assert found["stemMp4"] == (shutil.which("ffmpeg") is not None)


def test_downloads(client: Any, song: Song, shared_workspace: Workspace) -> None:
    at = f"/songs/{song.token}"
    stem = client.get(f"{at}/stems/3")
    assert stem.content == song.tracks[3].path.read_bytes()
    assert "Mein%20St%C3%BCck%20-%20vocals.wav" in stem.headers["content-disposition"]
    assert client.get(f"{at}/pcm?start=5&samples=100").content == rendering.pcm(song, 5, 100)
    flac = client.get(f"{at}/stems/3?form=flac")
    assert flac.content == rendering.stem(song, 3, "flac").read_bytes()
    assert flac.headers["content-type"] == "audio/flac"
    assert flac.headers["content-disposition"].endswith("vocals.flac")
    picture = client.get(f"{at}/spectrograms/1")
    assert picture.content == rendering.spectrogram(song, 1).read_bytes()
    assert client.get(f"{at}/envelopes").content == rendering.envelopes(song)
    archive = client.get(f"{at}/models/1/zip")
    assert archive.content == rendering.archive(song, "b").read_bytes()
    if shutil.which("ffmpeg"):
        stems = client.get(f"{at}/models/0/stem.mp4")
        assert stems.content == rendering.stem_mp4(song, "a").read_bytes()
    before = sorted(song.folder.iterdir())
    mix = client.get(f"{at}/remix?levels=0,1,0.5,0,0")
    (shared_workspace.root / "mix.wav").write_bytes(mix.content)
    vocals, other = (soundfile.read(song.tracks[number].path)[0] for number in (1, 2))
    found = soundfile.read(shared_workspace.root / "mix.wav")[0]
    assert np.abs(found - vocals - 0.5 * other).max() < 2.0**-22
    assert sorted(song.folder.iterdir()) == before, "the mix is not kept"


@pytest.mark.parametrize(("query", "status"), [("", 200), ("&form=rar", 404)])
def test_a_download_sets_its_cookie(client: Any, song: Song, query: str, status: int) -> None:
    at = f"/songs/{song.token}/stems/1"
    answer = client.get(f"{at}?ticket=ticket-a1{query}")
    assert answer.status_code == status
    assert answer.headers["set-cookie"].startswith(f"ticket-a1={status}; Path=/; ")
    for other in ("", "a1", "ticket-", "ticket-a;b", "ticket-a%0d%0ax", f"ticket-{33 * 'a'}"):
        assert "set-cookie" not in client.get(f"{at}?ticket={other}{query}").headers, other


def test_stem_mp4_needs_ffmpeg(client: Any, song: Song, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not client.get(f"/songs/{song.token}").json()["stemMp4"]
    (song.folder / "0.stem.mp4").unlink(missing_ok=True)
    answer = client.get(f"/songs/{song.token}/models/0/stem.mp4")
    assert answer.status_code == 503
    assert "install the package ffmpeg" in answer.json()["detail"]


def test_unknown_paths_and_invalid_queries(client: Any, song: Song) -> None:
    at = f"/songs/{song.token}"
    for path in (
        f"{at}/stems/5", f"{at}/stems/-1", f"{at}/stems/0?form=../x", f"{at}/spectrograms/5",
        f"{at}/models/2/zip", f"{at}/models/-1/zip", f"{at}/models/0/rar", "/app/page.py",
        f"{at}/models/0/zip?form=rar", f"{at}/remix?levels=1,1,1,1,1&form=x",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    gone = client.get("/songs/another")
    assert gone.status_code == 404
    assert "deleted after 30 minutes" in gone.json()["detail"]
    for levels in ("1,1", "1,1,1,1,9", "a,b,c,d,e", "nan,1,1,1,1"):
        assert client.get(f"{at}/remix?levels={levels}").status_code == 422
    assert client.get(f"{at}/pcm?start=x&samples=1").status_code == 422


def test_other_files_of_the_machine_are_not_served(
    client: Any, song: Song, shared_workspace: Workspace, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    beside = shared_workspace.root / "secret.txt"
    beside.write_text("SECRET")
    up = "../" * 12
    targets = [
        str(secret),
        f"{up}{secret}",
        f"{shared_workspace.uploads}/../secret.txt",
        str(beside),
    ]
    targets += [f"{shared_workspace.uploads}/{up}{secret}", "/etc/passwd", f"{up}etc/passwd"]
    routes = ["/gradio_api/file=", "/file=", "/app/", "/assets/", "/static/", "/songs/"]
    routes += [f"/songs/{song.token}/stems/", f"/songs/{song.token}/models/0/"]
    routes += ["/gradio_api/stream/", "/gradio_api/proxy=", "/custom_component/", "/svelte/"]
    routes += ["/theme.css/", "/"]
    for route in routes:
        for target in targets:
            for form in (target, target.replace("/", "%2F"), target.replace(".", "%2e")):
                answer = client.get(f"{route}{form}", follow_redirects=False)
                assert "SECRET" not in answer.text, (route, form)
                assert "root:" not in answer.text, (route, form)
                assert answer.status_code in (307, 400, 403, 404, 405, 422), (route, form)
    own = client.get(f"/gradio_api/file={song.tracks[1].path}")
    assert own.status_code == 403, "songs are available only by their tokens"


def press(client: Any, file: dict[str, Any], overlap: Any = None) -> dict[str, Any]:
    """Submit the page's form as its script does; return the final event."""
    advanced = [overlap, "", "", "", "", "", ""]
    return send(client, {"data": [file, "All stems", "a", "", *advanced], "fn_index": 0})


def send(client: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Add a request to the page's queue; return the final event."""
    session = secrets.token_hex(4)
    joined = client.post("/gradio_api/queue/join", json={**body, "session_hash": session})
    assert joined.status_code == 200, joined.text
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        events = [json.loads(line[5:]) for line in stream.iter_lines() if line[:5] == "data:"]
    (event,) = [event for event in events if event["msg"] == "process_completed"]
    found: dict[str, Any] = event
    return found


def test_paths_that_were_not_uploaded_are_refused(
    client: Any, song: Song, shared_workspace: Workspace, tmp_path: Path
) -> None:
    picture = tmp_path / "secret.svg"
    picture.write_text("SECRET")
    folders = sorted(shared_workspace.root.iterdir())
    for path in ("/etc/passwd", "../../etc/passwd", str(song.tracks[1].path), str(picture)):
        for meta in ({"meta": {"_type": "gradio.FileData"}}, {}):
            event = press(client, {"path": path, "orig_name": "a.wav", **meta})
            assert not event["success"] or "stemlab-error" in event["output"]["data"][0]
    uploaded = [p.read_bytes() for p in shared_workspace.uploads.rglob("*") if p.is_file()]
    stolen = [Path("/etc/passwd").read_bytes(), song.tracks[1].path.read_bytes(), b"SECRET"]
    assert not any(content in stolen for content in uploaded)
    assert client.get(f"/gradio_api/file={picture}").status_code == 403
    assert sorted(shared_workspace.root.iterdir()) == folders


def test_upload_is_separated(client: Any, song: Song) -> None:
    content = {"files": ("song.wav", song.source.read_bytes())}
    (path,) = client.post("/gradio_api/upload", files=content).json()
    tokens = []
    for overlap in ("", "0.75"):
        event = press(client, {"path": path, "meta": {"_type": "gradio.FileData"}}, overlap)
        assert event["success"]
        tokens.append(event["output"]["data"][0].split('"')[1])
        assert client.get(f"/songs/{tokens[-1]}").json()["models"] == ["a"]
    stems = [client.get(f"/songs/{token}/stems/1").content for token in tokens]
    assert stems[0] != stems[1]
    event = press(client, {"path": path, "meta": {"_type": "gradio.FileData"}}, "1")
    assert "overlap is 1" in event["output"]["data"][0]


def test_the_api_is_off(client: Any) -> None:
    """It would pass the queue by."""
    body = {"data": [None, ["a"]], "fn_index": 0, "session_hash": "abc"}
    for path in (
        "run/separate", "api/separate", "api/predict", "call/separate",
        "call/v2/separate", "RUN/predict", "run/predict/x",
    ):  # fmt: skip
        assert client.post(f"/gradio_api/{path}", json=body).status_code == 404, path
    assert client.post("/gradio_api/run/predict", json=body).status_code == 422
    for path in ("/gradio_api/info", "/gradio_api/openapi.json", "/monitoring", "/login", "/docs",
                 "/gradio_api/runs", "/gradio_api/mcp/sse", "/gradio_api/vibe-code"):  # fmt: skip
        assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("error", [RuntimeError("/srv/secret"), KeyError("x"), MemoryError()])
def test_unexpected_error_in_the_work(
    client: Any, song: Song, error: Exception, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("lightning_modules.webapp.work.separate_and_draw", fail)
    content = {"files": ("song.wav", song.source.read_bytes())}
    (path,) = client.post("/gradio_api/upload", files=content).json()
    event = press(client, {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert event["success"]
    assert "could not separate this song" in event["output"]["data"][0]
    assert "srv" not in event["output"]["data"][0]
    (record,) = [each for each in caplog.records if each.name == "uvicorn.error"]
    assert record.message.startswith(f"separation: {type(error).__name__}: ")
    assert "Traceback" not in capfd.readouterr().err


NO_FUNCTIONS: list[Any] = [99, -1, None, "0", 0.0, [0], {}, 10**30]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"[]", b"null", b"3", b"{}", b"[" * 10_000, b"\xff",
        *(json.dumps({"data": [None, ["a"]], "fn_index": number, "session_hash": "abc"}).encode()
          for number in NO_FUNCTIONS),
    ],
)  # fmt: skip
def test_unknown_functions(
    client: Any, body: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = client.post("/gradio_api/queue/join", content=body)
    assert answer.status_code == 422
    assert answer.text == "The page has no such function; reload it."
    assert not caplog.records
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "data", [[], [None], [{"path": "/etc/passwd"}, ["a"]], [3, 4], [None, ["z"]]]
)
def test_invalid_arguments_of_the_page(
    client: Any, data: list[Any], capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Gradio would print a traceback for each."""
    event = send(client, {"data": data, "fn_index": 0})
    assert not event["success"]
    assert "Traceback" not in capfd.readouterr().err
    assert len([each for each in caplog.records if each.name == "uvicorn.error"]) == 1


def test_upload_on_a_full_disk(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/x")

    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", fail)
    answer = client.post("/gradio_api/upload", files={"files": ("a.wav", bytes(1000))})
    assert answer.status_code == 507
    assert answer.text.startswith("No space left on the disk")
    (record,) = [each for each in caplog.records if each.name == "uvicorn.error"]
    assert record.message.startswith("POST '/gradio_api/upload': OSError: ")


def test_size_and_place_of_uploads_are_limited(client: Any, shared_workspace: Workspace) -> None:
    before = sorted(shared_workspace.uploads.rglob("*"))
    answer = client.post("/gradio_api/upload", files={"files": ("a.wav", bytes(1_100_000))})
    assert answer.status_code >= 400
    assert "size" in answer.text
    kept = [path for path in shared_workspace.uploads.rglob("*") if path not in before]
    assert sum(path.stat().st_size for path in kept if path.is_file()) <= 1_000_000
    several = [("files", (f"{n}.wav", bytes(400_000))) for n in range(3)]
    answer = client.post("/gradio_api/upload", files=several)
    assert answer.status_code == 413, "the limit is for a request, not for each of its files"
    assert client.post("/gradio_api/queue/join", content=bytes(70_000)).status_code == 413
    small = client.post("/gradio_api/upload", files={"files": ("../../a.wav", bytes(1000))})
    assert small.status_code == 200
    assert Path(small.json()[0]).is_relative_to(shared_workspace.uploads)


def test_pages_load_nothing_from_other_servers(client: Any) -> None:
    modules = ("blind_test", "dom", "downloads", "keyboard", "mixer", "player", "sign_test",
               "timeline", "transport")  # fmt: skip
    for path in ("/", "/app/page.css", "/theme.css", *(f"/app/{name}.js" for name in modules)):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    page = client.get("/").text
    assert "/app/player.js" in page
    for link in ("googleapis", "cdnjs", '<script src="http', "@import"):
        assert link not in page
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
