"""A real browser with the page of the web app."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 180  # for a busy machine
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


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
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, [found.text for found in self.all("body")]
            time.sleep(0.1)
        return found

    def wait_for(self, selector: str) -> None:
        self.wait(lambda: self.all(selector))

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait for an element with a text; the page may replace it at any time."""
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)"
        self.wait(
            lambda: any(text in each for each in self.driver.execute_script(script, selector))
        )

    def wait_for_page(self) -> None:
        """Wait for all controls, which Gradio creates one by one."""
        for selector in ("#song input[type=file]", "#other input", "#preset input", "#separate"):
            self.wait_for(selector)

    def start(self, song: Path, other: str = "", preset: int = 0) -> None:
        """Upload a song and start its separation, to compare with another model."""
        if other:
            self.one("#other input").click()
            option = f"ul[role=listbox] [aria-label='{other}']"
            self.wait_for(option)
            self.one(option).click()
        self.all("#preset input")[preset].click()
        self.one("#song input[type=file]").send_keys(str(song))
        self.wait(lambda: song.stem in self.one("#song").text)
        self.one("#separate").click()

    def separate(self, song: Path, other: str = "", preset: int = 0) -> None:
        self.start(song, other, preset)
        self.wait_for("stem-player .play")

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(key)

    def run(self, script: str) -> Any:
        """Return what a script passes to ``done``."""
        return self.driver.execute_async_script(
            "const done = arguments[0]; const player = document.querySelector('stem-player');"
            + script
        )

    def download(self, selector: str, name: str) -> Path:
        self.one(selector).click()
        self.wait((self.downloads / name).is_file)
        return self.downloads / name


def start_browser(address: str, folder: Path) -> Browser:
    """Start Chromium without a window; its profile and downloads are below a folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    downloads = folder / "downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(TIMEOUT_SECONDS)
    return Browser(driver, address, downloads)
