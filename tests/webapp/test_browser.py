"""The page in a real browser, with the server in another process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.inference.stem_files import separate_file
from tests.helpers.checkpoints import save
from tests.helpers.command_line import REPOSITORY
from tests.helpers.webapp import timeless, tiny, write_song

pytestmark = pytest.mark.slow
_DRIVER = shutil.which("chromedriver")
if _DRIVER is None or shutil.which("chromium") is None:
    pytest.skip("apt install chromium chromium-driver", allow_module_level=True)

_TIMEOUT_SECONDS = 180  # for a busy machine
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_MAX_MINUTES = 2
_AUDIBLE = "player.transport.targetGains.flatMap((gain, track) => (gain ? [track] : []))"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [save(tiny(seed), folder / f"model_{name}.ckpt") for seed, name in enumerate("ab")]


@pytest.fixture(scope="module")
def app(
    checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Address of a running app, and the folder of its temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "lightning_modules.tools.webapp", "--port", "0"]
    command += ["--checkpoint", *map(str, checkpoints), "--max-minutes", str(_MAX_MINUTES)]
    environment = os.environ | {"TMPDIR": str(folder)}
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), folder
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(_TIMEOUT_SECONDS) == 0
        # Libraries leave hidden files and caches of torch.
        left = [path for path in folder.iterdir() if not path.name.startswith((".", "torch"))]
        assert not left, "SIGTERM must delete all files"


class Browser:
    """A browser with the page."""

    def __init__(self, driver: Any, address: str, downloads: Path) -> None:
        self.driver, self.address, self.downloads = driver, address, downloads

    def open(self) -> None:
        """Reload the page."""
        shutil.rmtree(self.downloads, ignore_errors=True)
        self.downloads.mkdir()
        self.driver.get(self.address)
        self.wait_for_page()

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        return self.all(selector)[0]

    def ask(self, expression: str) -> Any:
        return self.driver.execute_script(
            f"const player = document.querySelector('stem-player'); return {expression}"
        )

    def wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, [found.text for found in self.all("body")]
            time.sleep(0.1)
        return found

    def wait_for(self, selector: str) -> None:
        self.wait(lambda: self.all(selector))

    def wait_for_page(self) -> None:
        """Wait for all controls, which Gradio creates one by one."""
        for selector in ("#song input[type=file]", "#models input", "#separate", "#stop"):
            self.wait_for(selector)

    def start(self, song: Path, models: int = 1) -> None:
        """Upload a song and start its separation."""
        for box in self.all("#models input")[1:models]:
            box.click()
        self.one("#song input[type=file]").send_keys(str(song))
        self.wait(lambda: song.stem in self.one("#song").text)
        self.one("#separate").click()

    def separate(self, song: Path, models: int = 1) -> None:
        self.start(song, models)
        self.wait_for("stem-player .play")

    def download(self, selector: str, name: str) -> Path:
        self.one(selector).click()
        self.wait((self.downloads / name).is_file)
        return self.downloads / name


@pytest.fixture(scope="module")
def browsers(
    app: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Browser]]:
    """Browsers of several users, started once for all tests."""
    from selenium import webdriver

    started: list[Browser] = []

    def browser(number: int) -> Browser:
        while len(started) <= number:
            folder = tmp_path_factory.mktemp("browser")
            options = webdriver.ChromeOptions()
            for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
                options.add_argument(flag)
            downloads = folder / "downloads"
            options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
            options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
            driver = webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))
            driver.set_script_timeout(_TIMEOUT_SECONDS)
            started.append(Browser(driver, app[0], downloads))
        return started[number]

    yield browser
    for each in started:
        each.driver.quit()


@pytest.fixture
def user(browsers: Callable[[int], Browser]) -> Browser:
    browsers(0).open()
    return browsers(0)


@pytest.fixture
def other(browsers: Callable[[int], Browser]) -> Browser:
    browsers(1).open()
    return browsers(1)


def test_upload_play_mix_and_download(
    user: Browser, checkpoints: list[Path], tmp_path: Path
) -> None:
    song = write_song(tmp_path / "My Song.wav", 5)
    user.separate(song)
    assert [name.text for name in user.all("stem-player .name")] == [
        "full mix", "vocals", "other",
    ]  # fmt: skip

    user.one("stem-player .play").click()
    user.wait(lambda: 0.2 < user.ask("player.currentTime") < 5)
    user.one("stem-player .play").click()
    paused = user.ask("player.currentTime")
    assert not user.ask("player.playing")
    time.sleep(0.3)
    assert user.ask("player.currentTime") == paused
    user.ask("player.seek(4.9)")
    assert user.ask("player.currentTime") == pytest.approx(4.9)
    user.one("stem-player .play").click()
    user.wait(lambda: not user.ask("player.playing"))  # it stops at the end
    assert user.ask("player.currentTime") == pytest.approx(5, abs=0.01)
    width = user.one("stem-player .strip").size["width"]
    user.driver.execute_script(
        "const strip = document.querySelector('stem-player .strip');"
        "const x = strip.getBoundingClientRect().left + arguments[0];"
        "strip.dispatchEvent(new MouseEvent('click', {clientX: x, bubbles: true}))",
        width / 2,
    )
    assert user.ask("player.currentTime") == pytest.approx(2.5, abs=0.05)

    gains = "player.transport.targetGains"
    assert user.ask(gains) == [0, 1, 1], "the mixture is muted"
    user.all("stem-player .mute")[1].click()
    assert user.ask(gains) == [0, 0, 1]
    user.all("stem-player .solo")[1].click()
    assert user.ask(gains) == [0, 1, 0]
    user.driver.execute_script(
        "const level = document.querySelectorAll('stem-player .level')[1];"
        "level.value = -6; level.dispatchEvent(new Event('input'))"
    )
    assert user.ask(gains)[1] == pytest.approx(10 ** (-6 / 20))

    loaded = "[...player.querySelectorAll('img')].every((i) => i.complete && i.naturalWidth)"
    for kind in ("waveform", "spectrogram"):
        user.one(f"stem-player button[data-view={kind}]").click()
        assert user.ask("player.dataset.view") == kind
        user.wait(lambda: user.ask(loaded))

    separate_file(load_separator(checkpoints[0]), song, tmp_path / "expected")
    stem = user.download("stem-player a[href$='/stems/1']", "My Song - vocals.wav")
    assert timeless(stem) == timeless(tmp_path / "expected/vocals.wav")
    mix = user.download("stem-player a.mix", "My Song - my mix.wav")
    found, expected = (soundfile.read(path)[0] for path in (mix, tmp_path / "expected/vocals.wav"))
    assert np.abs(found - 10 ** (-6 / 20) * expected).max() < 1e-5
    user.download("stem-player a[href$='/zip']", "My Song.zip")

    requests = [json.loads(entry["message"])["message"] for entry in
                user.driver.get_log("performance")]  # fmt: skip
    addresses = {
        request["params"]["request"]["url"]
        for request in requests
        if request["method"] == "Network.requestWillBeSent"
        and "127.0.0.1" in request["params"]["documentURL"]
    }
    home = user.driver.current_url
    assert len(addresses) > 10
    assert all(address.startswith((home, "data:", "blob:")) for address in addresses)


def test_tracks_are_synchronous(user: Browser, tmp_path: Path) -> None:
    """The sum of both stems is the mixture, sample by sample."""
    user.separate(write_song(tmp_path / "song.wav", 3))
    peak = user.driver.execute_async_script(
        """
        const done = arguments[0];
        const player = document.querySelector('stem-player');
        const segments = player.transport.segments;
        segments.get(0).then((buffers) => {
          const [mixture, vocals, other] = buffers.map((buffer) => buffer.getChannelData(1));
          let difference = 0, loudest = 0;
          for (let i = 0; i < mixture.length; i++) {
            difference = Math.max(difference, Math.abs(mixture[i] - vocals[i] - other[i]));
            loudest = Math.max(loudest, Math.abs(mixture[i]));
          }
          done([mixture.length, difference, loudest]);
        });
        """
    )
    assert peak[0] == 3 * 44100
    assert peak[1] < 1e-4 < 0.1 < peak[2]
    user.one("stem-player .play").click()
    user.wait(lambda: user.ask("player.currentTime") > 0)
    assert user.ask("player.transport.sources.size") == 3, "one source per track"


def test_error_messages(user: Browser, tmp_path: Path) -> None:
    user.one("#separate").click()
    message = "#result .stemlab-error"
    user.wait(lambda: user.all(message) and "Choose a song first" in user.one(message).text)
    (tmp_path / "text.mp3").write_text("not audio at all <b>")
    user.start(tmp_path / "text.mp3")
    user.wait(lambda: user.all(message) and "text.mp3: is not audio" in user.one(message).text)
    user.open()
    user.start(write_song(tmp_path / "long.wav", 126, 1))
    user.wait(
        lambda: user.all(message) and "long.wav: is longer than 2 minutes" in user.one(message).text
    )


def test_stop_and_leave(
    user: Browser, other: Browser, app: tuple[str, Path], tmp_path: Path
) -> None:
    """Separation is cancelled by the stop button and by leaving the page."""
    (workspace,) = app[1].glob("stemlab-webapp-*")

    def songs() -> set[str]:
        return {path.name for path in workspace.iterdir()}

    before = songs()
    song = write_song(tmp_path / "song.wav", 110, 1)
    user.start(song)
    user.wait(lambda: songs() > before)
    user.one("#stop").click()
    user.wait(lambda: "Stopped" in user.one("#result").text)
    user.wait(lambda: songs() == before)  # finished songs are kept
    other.start(song)
    other.wait(lambda: songs() > before)
    other.driver.get("about:blank")
    other.wait(lambda: songs() == before)
    user.open()
    user.separate(write_song(tmp_path / "short.wav", 2))
    user.one("#stop").click()
    time.sleep(1)
    assert user.all("stem-player .play"), "a finished song is kept"


def test_two_users_at_once(user: Browser, other: Browser, tmp_path: Path) -> None:
    pair = [user, other]
    songs = [write_song(tmp_path / f"song {n}.wav", 2 + n, level=0.05 * n) for n in (1, 2)]
    for each, song in zip(pair, songs, strict=True):
        each.start(song)
    for each, song in zip(pair, songs, strict=True):
        each.wait_for("stem-player .play")
        assert each.one("stem-player h2").text == song.stem
        found = each.download("stem-player a[href$='/stems/0']", f"{song.stem} - mixture.wav")
        assert np.array_equal(soundfile.read(found)[0], soundfile.read(song)[0])
    tokens = [each.one("stem-player").get_attribute("song") for each in pair]
    assert tokens[0] != tokens[1]


def test_blind_test(user: Browser, tmp_path: Path) -> None:
    user.separate(write_song(tmp_path / "song.wav", 5), models=2)
    assert len(user.all("stem-player .track")) == 5
    user.one("stem-player .blind summary").click()
    user.wait(lambda: user.ask("player.classList.contains('testing')"))
    shown = user.one("stem-player").text
    assert "model_a" not in shown
    assert "model_b" not in shown
    assert not user.one("stem-player .mixer").is_displayed(), "it would show the model"

    assigned, votes = [], [0, 0]
    a, b = user.all("stem-player .side")
    for _ in range(12):
        a.click()
        first = user.ask(_AUDIBLE)
        moment = user.ask("player.currentTime")
        b.click()
        second = user.ask(_AUDIBLE)
        assert user.ask("player.currentTime") >= moment or moment > 4.5, "playback continues"
        assert sorted([*first, *second]) == [1, 3], "vocals of both models, one at a time"
        assigned.append(first[0])
        user.all("stem-player .vote")[0].click()
        votes[first[0] // 2] += 1
    assert set(assigned) == {1, 3}, "assigned at random (12 equal ones: 1 in 2048)"
    user.all("stem-player .vote")[2].click()
    tally = user.one("stem-player .tally").text
    assert "no difference" in tally
    assert sorted(map(int, re.findall(r"\d+", tally))) == sorted([*votes, 1])
    user.one("stem-player .reveal").click()
    revealed = user.one("stem-player .revealed").text
    expected = f"model_a: {votes[0]}, model_b: {votes[1]}, no difference: 1."
    assert revealed.startswith(expected)
    user.one("stem-player .blind summary").click()
    user.wait(lambda: user.ask(_AUDIBLE) == [1, 2])

    found = user.driver.execute_async_script(
        "const done = arguments[0]; import('/app/blind_test.js').then(({ signTest }) =>"
        "done([[5, 5], [0, 5], [5, 0], [2, 8], [0, 1]].map(([a, b]) => signTest(a, b))))"
    )
    # The two-sided sign test, against its sum by hand.
    probabilities = [1, 2 / 32, 2 / 32, 2 * (1 + 10 + 45) / 1024, 1]
    assert found == pytest.approx(probabilities)


def test_layout_fits_the_window(user: Browser, tmp_path: Path) -> None:
    name = "A song with a name that is longer than a line on the screen of a phone"
    user.separate(write_song(tmp_path / f"{name}.wav"), models=2)
    for width, height in ((1280, 800), (390, 844)):
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        user.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        user.wait(partial(user.ask, f"innerWidth === {width}"))
        assert user.ask("document.documentElement.scrollWidth") <= width
        outside = user.ask(
            "[...player.querySelectorAll('*')].filter((e) => e.getClientRects().length &&"
            "e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.className)"
        )
        assert outside == []
    user.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
