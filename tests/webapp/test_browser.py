"""The page in a real browser, with the server in another process."""

from __future__ import annotations

import csv
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

import numpy as np
import pytest
import soundfile

from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.inference.stem_files import separate_file
from tests.helpers.browser import TIMEOUT_SECONDS, Browser, start_browser
from tests.helpers.checkpoints import save
from tests.helpers.command_line import REPOSITORY
from tests.helpers.webapp import timeless, tiny, write_song

pytestmark = pytest.mark.slow
if shutil.which("chromedriver") is None or shutil.which("chromium") is None:
    pytest.skip("apt install chromium chromium-driver", allow_module_level=True)

_MAX_MINUTES = 2
_AUDIBLE = "player.transport.targetGains.flatMap((gain, track) => (gain ? [track] : []))"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = [folder / f"runs/model_{name}/checkpoints/best.ckpt" for name in "ab"]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        save(tiny(seed), path)
    return paths


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
        assert process.wait(TIMEOUT_SECONDS) == 0
        # Libraries leave hidden files and caches of torch.
        left = [path for path in folder.iterdir() if not path.name.startswith((".", "torch"))]
        assert not left, "SIGTERM must delete all files"


@pytest.fixture(scope="module")
def browsers(
    app: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], Browser]]:
    """Browsers of several users, started once for all tests."""
    started: list[Browser] = []

    def browser(number: int) -> Browser:
        while len(started) <= number:
            started.append(start_browser(app[0], tmp_path_factory.mktemp("browser")))
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
        "const level = document.querySelectorAll('stem-player .track .level')[1];"
        "level.value = -6; level.dispatchEvent(new Event('input'))"
    )
    assert user.ask(gains)[1] == pytest.approx(10 ** (-6 / 20))

    assert user.all("stem-player .wave path")[1].is_displayed()
    user.one("stem-player button[data-view=spectrogram]").click()
    assert not user.all("stem-player .wave path")[1].is_displayed()
    loaded = "[...player.querySelectorAll('img')].every((i) => i.complete && i.naturalWidth)"
    user.wait(lambda: user.ask(loaded))

    separate_file(load_separator(checkpoints[0]), song, tmp_path / "expected")
    stem = user.download("stem-player a[href*='/stems/1?']", "My Song - vocals.wav")
    assert timeless(stem) == timeless(tmp_path / "expected/vocals.wav")
    mix = user.download("stem-player a.mix", "My Song - my mix.wav")
    found, expected = (soundfile.read(path)[0] for path in (mix, tmp_path / "expected/vocals.wav"))
    assert np.abs(found - 10 ** (-6 / 20) * expected).max() < 1e-5
    user.download("stem-player a[href*='/zip?']", "My Song.zip")

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


def test_links_are_busy_while_files_are_encoded(user: Browser, tmp_path: Path) -> None:
    user.separate(write_song(tmp_path / "song.wav", 2))
    # As long as the page does not see the cookie, the file is not encoded.
    user.driver.execute_script(
        "const { get, set } = Object.getOwnPropertyDescriptor(Document.prototype, 'cookie');"
        "window.unseen = true;"
        "Object.defineProperty(document, 'cookie', {"
        "  get: () => (window.unseen ? '' : get.call(document)), set: (x) => set.call(document, x),"
        "});"
        "const format = document.querySelector('stem-player .format select');"
        "format.value = 'flac'; format.dispatchEvent(new Event('change'))"
    )
    names = {
        "stem-player a[href*='/stems/1?']": "song - vocals.flac",
        "stem-player a[href*='/zip?']": "song.zip",
        "stem-player a.mix": "song - my mix.flac",
    }
    for selector in names:
        for _ in range(2):  # the second one is ignored
            user.one(selector).click()
        assert user.all(f"{selector}[aria-busy]")
    for name in names.values():
        user.wait((user.downloads / name).is_file)
    assert len(user.all("stem-player [aria-busy]")) == len(names)
    user.ask("window.unseen = false")
    user.wait(lambda: not user.all("stem-player [aria-busy]"))
    assert len(list(user.downloads.iterdir())) == len(names)
    assert user.ask("document.cookie") == ""
    user.ask("player.downloads.url = '/songs/another'")
    user.one("stem-player a.mix").click()
    user.wait(
        lambda: any(
            "no longer available" in each.text for each in user.all("stem-player .stemlab-error")
        )
    )


def test_tracks_are_synchronous(user: Browser, tmp_path: Path) -> None:
    """The sum of both stems is the mixture, sample by sample."""
    user.separate(write_song(tmp_path / "song.wav", 3), preset=2)
    assert user.ask(_AUDIBLE) == [2], "karaoke: the vocals are muted"
    peak = user.run(
        """
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

    _keys(user)
    _zoom_and_loop(user)


def _keys(user: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    user.one("stem-player .mute").click()  # the focus stays on it
    user.press(Keys.SPACE)
    assert not user.ask("player.playing")
    user.ask("player.seek(2)")
    for key, seconds in ((Keys.ARROW_RIGHT, 3), (Keys.ARROW_LEFT, 0), (Keys.HOME, 0)):
        user.press(key)
        assert user.ask("player.currentTime") == pytest.approx(seconds)
    for key, audible in (
        ("1", [1]), ("1", [0, 2]), ("!", [0, 1, 2]), ("!", [0, 2]), ("o", [0]), ("o", [0, 2]),
    ):  # fmt: skip
        digit = "1" if key in "1!" else ""
        user.driver.execute_script(
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true,"
            "key: arguments[0], code: arguments[1], shiftKey: arguments[2]}))",
            key, f"Digit{digit}" if digit else "", key == "!",
        )  # fmt: skip
        assert user.ask(_AUDIBLE) == audible, key
    user.driver.execute_script(
        "const volume = document.querySelector('stem-player .volume .level');"
        "volume.value = -6; volume.dispatchEvent(new Event('input'))"
    )
    assert user.ask("player.transport.volume") == pytest.approx(10 ** (-6 / 20))
    user.one("stem-player .track .level").send_keys("1")
    assert user.ask(_AUDIBLE) == [1], "sliders take arrows only"


def _zoom_and_loop(user: Browser) -> None:
    user.ask("player.seek(1)")
    user.press("+")
    start, end = user.ask("[player.timeline.start, player.timeline.end]")
    assert (start, end) == pytest.approx((0.5, 2))
    user.ask("player.seek(2.5)")
    user.wait(lambda: user.ask("player.timeline.start") == pytest.approx(1.5))  # it follows
    _drag(user, 0.2, 0.6)
    loop = user.ask("player.transport.loop")
    assert loop == pytest.approx([1.5 + 0.2 * 1.5, 1.5 + 0.6 * 1.5], abs=0.02)
    assert user.ask("player.currentTime") == pytest.approx(loop[0])
    user.one("stem-player .play").click()
    user.wait(lambda: user.ask("player.transport.time") > loop[1] + 1)  # around twice
    assert loop[0] <= user.ask("player.currentTime") <= loop[1]
    user.press("l")
    user.wait(lambda: not user.ask("player.playing"))  # at the end of the song
    found = user.run(
        "Promise.all([import('/app/transport.js'), import('/app/timeline.js')])"
        ".then(([{ loopedPosition }, { ticks }]) => done({"
        "  positions: [1, 2.9, 3, 4.5, 5].map((time) => loopedPosition(time, [1, 3])),"
        "  ticks: [ticks(0, 22, 5), ticks(1.5, 3, 8)],"
        "}))"
    )
    assert found["positions"] == [1, 2.9, 1, 2.5, 1]
    assert found["ticks"][0] == {"times": [0, 5, 10, 15, 20], "decimals": 0}
    assert found["ticks"][1]["times"] == pytest.approx([1.6, 1.8, 2, 2.2, 2.4, 2.6, 2.8, 3])
    assert found["ticks"][1]["decimals"] == 1


def _drag(user: Browser, start: float, end: float) -> None:
    """Drag over the second waveform, from one part of its width to another."""
    user.driver.execute_script(
        "const strip = document.querySelectorAll('stem-player .strip')[1];"
        "const box = strip.getBoundingClientRect();"
        "const at = (part) => ({ clientX: box.left + part * box.width, bubbles: true });"
        "strip.setPointerCapture = () => {};"
        "strip.dispatchEvent(new PointerEvent('pointerdown', at(arguments[0])));"
        "strip.dispatchEvent(new PointerEvent('pointermove', at(arguments[1])));"
        "strip.dispatchEvent(new PointerEvent('pointerup', at(arguments[1])));",
        start, end,
    )  # fmt: skip


def test_error_messages(user: Browser, tmp_path: Path) -> None:
    user.one("#separate").click()
    message = "#result .stemlab-error"
    user.wait_for_text(message, "Choose a song first")
    (tmp_path / "text.mp3").write_text("not audio at all <b>")
    user.start(tmp_path / "text.mp3")
    user.wait_for_text(message, "text.mp3: is not audio")
    user.open()
    user.start(write_song(tmp_path / "long.wav", 126, 1))
    user.wait_for_text(message, "long.wav: is longer than 2 minutes")


def test_stop_and_leave(
    user: Browser, other: Browser, app: tuple[str, Path], tmp_path: Path
) -> None:
    """Separation is cancelled by the stop button and by leaving the page."""
    (workspace,) = app[1].glob("stemlab-webapp-*")

    def songs() -> set[str]:
        return {path.name for path in workspace.iterdir()}

    before = songs()
    song = write_song(tmp_path / "song.wav", 110, 1)
    assert not shown(user, "#stop")
    user.start(song)
    user.wait(lambda: songs() > before)
    user.wait(lambda: shown(user, "#stop"))
    assert not shown(user, "#separate")
    user.wait(lambda: re.search(r"Separating with model_a\s+\d+%", user.one("#result").text))
    user.one("#stop").click()
    user.wait(lambda: "Stopped" in user.one("#result").text)
    user.wait(lambda: songs() == before)  # finished songs are kept
    user.wait(lambda: shown(user, "#separate"))
    other.start(song)
    other.wait(lambda: songs() > before)
    other.driver.get("about:blank")
    other.wait(lambda: songs() == before)


def shown(user: Browser, selector: str) -> bool:
    return any(found.is_displayed() for found in user.all(selector))


def test_two_users_at_once(user: Browser, other: Browser, tmp_path: Path) -> None:
    pair = [user, other]
    songs = [write_song(tmp_path / f"song {n}.wav", 2 + n, level=0.05 * n) for n in (1, 2)]
    for each, song in zip(pair, songs, strict=True):
        each.start(song)
    for each, song in zip(pair, songs, strict=True):
        each.wait_for("stem-player .play")
        assert each.one("stem-player h2").text == song.stem
        found = each.download("stem-player a[href*='/stems/0?']", f"{song.stem} - mixture.wav")
        assert np.array_equal(soundfile.read(found)[0], soundfile.read(song)[0])
    tokens = [each.one("stem-player").get_attribute("song") for each in pair]
    assert tokens[0] != tokens[1]


def test_blind_test(user: Browser, tmp_path: Path) -> None:
    user.separate(write_song(tmp_path / "song.wav", 5), other="model_b")
    assert len(user.all("stem-player .track")) == 5
    user.one("stem-player .blind summary").click()
    user.wait(lambda: user.ask("player.classList.contains('testing')"))
    text = user.one("stem-player").text
    assert "model_a" not in text
    assert "model_b" not in text
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
    assert not shown(user, "stem-player .exports")
    user.one("stem-player .reveal").click()
    revealed = user.one("stem-player .revealed").text
    expected = f"model_a: {votes[0]}, model_b: {votes[1]}, no difference: 1. "
    assert revealed.startswith(expected)
    assert re.search(r"No preference shown|model_[ab] is preferred", revealed)
    exported = json.loads(user.download("stem-player .json", "song - blind test.json").read_text())
    assert exported["counts"] == votes
    assert exported["verdict"] == revealed.removeprefix(expected)
    rows = list(csv.DictReader(user.download("stem-player .csv", "song - blind test.csv").open()))
    assert [row["preferred"] for row in rows] == [vote["preferred"] for vote in exported["votes"]]
    assert [row["a"] for row in rows[:12]] == [f"model_{'ab'[number // 2]}" for number in assigned]
    user.ask("player.blind.element.removeAttribute('open')")
    user.wait(lambda: user.ask(_AUDIBLE) == [1, 2])


def test_statistics_of_the_blind_test(user: Browser) -> None:
    found = user.run(
        "import('/app/sign_test.js').then(({ signTest, probabilityWords, verdict, matchedGains,"
        " csv }) => done({"
        "  p: [[5, 5], [0, 5], [5, 0], [2, 8], [0, 1]].map(([a, b]) => signTest(a, b)),"
        "  words: [1, 0.37, 0.0391, 0.00042].map(probabilityWords),"
        "  verdicts: [[0, 0], [9, 1], [1, 9], [3, 4], [2, 1]].map((n) => verdict(['a', 'b'], n)),"
        "  gains: [[1, 4], [4, 1], [0, 1], [2, 2]].map(matchedGains),"
        "  csv: csv([{ song: 'x, \"y\"', vote: 1 }]),"
        "}))"
    )
    # The two-sided sign test, against its sum by hand.
    probabilities = [1, 2 / 32, 2 / 32, 2 * (1 + 10 + 45) / 1024, 1]
    assert found["p"] == pytest.approx(probabilities)
    assert found["words"] == ["p = 1", "p = 0.37", "p = 0.039", "p < 0.001"]
    none, first, second, even, few = found["verdicts"]
    assert none == "No preference shown: there is no vote for either."
    assert first == "a is preferred: 9 to 1 votes (two-sided sign test, p = 0.021)."
    assert second == first.replace("a is", "b is")
    assert even == "No preference shown: 4 to 3 votes (two-sided sign test, p = 1)."
    assert few.endswith("Six or more votes are needed to show one.")
    assert found["gains"] == [[1, 0.5], [0.5, 1], [1, 1], [1, 1]]
    assert found["csv"] == 'song,vote\n"x, ""y""",1\n'


def test_layout_fits_the_window(user: Browser, tmp_path: Path) -> None:
    """Without overflow, with readable colours, and with buttons that fingers hit."""
    name = "A song with a name that is longer than a line on the screen of a phone"
    user.separate(write_song(tmp_path / f"{name}.wav"), other="model_b")
    script = Path(__file__).with_name("layout.js").read_text()
    for width, height in ((1280, 800), (390, 844)):
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        user.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        user.wait(partial(user.ask, f"innerWidth === {width}"))
        for dark in (False, True):
            user.ask(f"document.body.classList.toggle('dark', {str(dark).lower()})")
            user.wait(lambda: user.ask("!document.getAnimations().length"))
            assert user.driver.execute_script(script) == [], (width, dark)
        user.ask("scrollTo(0, document.body.scrollHeight)")
        bar = user.ask("player.querySelector('.bar').getBoundingClientRect().top")
        assert 0 <= bar < height / 2, "the play button stays in the window"
    user.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    user.ask("document.body.classList.remove('dark')")
