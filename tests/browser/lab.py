"""A real JupyterLab on this machine alone, driven in a real browser.

The server keeps its configuration, data and settings in a folder of its own, so that
neither the reader's JupyterLab nor the notebooks here are touched.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, Playwright, Request, WebSocket

from tests.support.kernel_environment import kernel_environment

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
SESSION = "window.jupyterapp?.shell?.currentWidget?.sessionContext"
IDLE = f"() => {SESSION}?.isReady && {SESSION}.session?.kernel?.status === 'idle'"
# done when all have run
RUN = "() => { window.jupyterapp.commands.execute('runmenu:run-all'); }"
ALL_RUN = (
    "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
    ".every(prompt => /\\d/.test(prompt.textContent))"
)
SETTINGS = {
    "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    # All cells are in the page at once: what is off the screen can be looked at, too.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
SLOW = 120_000  # ms: a cell that loads the model, on a busy machine


def find_browser() -> str | None:
    """The system's Chromium."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Lab:
    """A running server: `url` and `token`, and `root`, the folder that it serves."""

    def __init__(self, root: Path, port: int, token: str):
        self.root = root
        self.token = token
        self.url = f"http://127.0.0.1:{port}"

    @contextmanager
    def notebook(
        self, browser: Browser, path: str, width: int = 1280, dark: bool = False
    ) -> Iterator[Notebook]:
        """Open a notebook below `root`, as wide as that, and wait for its kernel."""
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        opened = Notebook(page)
        page.goto(f"{self.url}/lab/tree/{path}?token={self.token}&reset")
        page.wait_for_function(IDLE, timeout=SLOW)
        theme = "JupyterLab Dark" if dark else "JupyterLab Light"
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
            theme,
        )
        light = "false" if dark else "true"
        page.wait_for_selector(f"body[data-jp-theme-light={light}]", state="attached")
        yield opened
        page.evaluate(f"() => {SESSION}.shutdown()")
        context.close()


class Notebook:
    """An open notebook; `outside` has all addresses asked for that are elsewhere."""

    def __init__(self, page: Page):
        self.page = page
        self.outside: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._see)
        page.on("websocket", self._see)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _see(self, asked: Request | WebSocket) -> None:
        if urlsplit(asked.url).hostname not in (None, "127.0.0.1"):
            self.outside.append(asked.url)

    def run_all(self) -> None:
        """Run every cell, and wait until the last one is done."""
        self.page.evaluate(RUN)
        self.page.wait_for_function(ALL_RUN, timeout=SLOW)
        self.wait_until_idle()

    def cell(self, name: str) -> Locator:
        """The cell with `# name` in its first line."""
        return self.page.locator(".jp-CodeCell").filter(has_text=f"# {name}")

    def start(self, name: str) -> None:
        """Start a cell with the keyboard."""
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def output(self, name: str) -> str:
        """What a cell has printed so far."""
        return self.cell(name).locator(".jp-OutputArea").inner_text()

    def wait_for_output(self, name: str, words: str) -> None:
        """Wait until a cell has printed these words."""
        self.cell(name).locator(".jp-OutputArea").filter(has_text=words).wait_for(
            timeout=SLOW
        )

    def wait_until_idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(IDLE, timeout=SLOW)

    def stop(self) -> None:
        """Press the button that interrupts the kernel."""
        self.page.locator("[data-jp-item-name=interrupt]").click()

    def errors(self) -> list[str]:
        """What cells wrote to stderr or raised, and the complaints of the page."""
        kinds = ("stderr", "error")
        found = ", ".join(
            f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in kinds
        )
        return self.page.locator(found).all_inner_texts() + self.complaints

    def widget(self, name: str) -> Widget:
        """The widget that the cell with `# name` in its first line shows."""
        cell = self.page.locator(".jp-CodeCell").filter(has_text=f"# {name}")
        return Widget(cell.locator(".jp-OutputArea-output .widget-vbox").first)


class Widget:
    """One of our widgets in the page."""

    def __init__(self, at: Locator):
        self.at = at

    @property
    def svg(self) -> Locator:
        """Its figure."""
        return self.at.locator("svg[role=img]")

    def seen(self) -> str:
        """What its figure says to who does not see it."""
        return self.svg.get_attribute("aria-label") or ""

    def message(self) -> str:
        """What it says above its figure."""
        return self.at.locator("[role=status]").inner_text()

    def control(self, label: str) -> Locator:
        """The control with that label."""
        return self.at.get_by_label(label, exact=True)

    def type(self, label: str, text: str) -> None:
        """Write a text into a box and leave it with Tab."""
        self.control(label).fill(text)
        self.control(label).press("Tab")

    def press(self, button: str) -> None:
        """Press a button with the keyboard."""
        self.at.get_by_role("button", name=button, exact=True).press("Enter")

    def drag(self, label: str, part: float) -> None:
        """Drag the handle of a slider to a part of its way, from 0 to 1."""
        slider = self.at.locator(".widget-slider").filter(has_text=label)
        slider.scroll_into_view_if_needed()
        way = slider.locator(".noUi-base").bounding_box()
        handle = slider.locator(".noUi-handle").bounding_box()
        assert way is not None and handle is not None
        mouse = self.at.page.mouse
        y = handle["y"] + handle["height"] / 2
        mouse.move(handle["x"] + handle["width"] / 2, y)
        mouse.down()
        mouse.move(way["x"] + part * way["width"], y, steps=5)
        mouse.up()

    def wait_for(self, words: str) -> None:
        """Wait until the figure or the message has these words."""
        self.at.page.wait_for_function(
            "([box, words]) => (box.innerText + [...box.querySelectorAll('svg')]"
            ".map(svg => svg.getAttribute('aria-label'))).includes(words)",
            arg=[self.at.element_handle(), words],
            timeout=SLOW,
        )


#: Where JupyterLab keeps what is its own.
FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
}


def _write_settings(folder: Path) -> None:
    for name, settings in SETTINGS.items():
        file = folder / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), encoding="utf-8")


@contextmanager
def running_lab(root: Path, private: Path) -> Iterator[Lab]:
    """Serve the folder `root`; what JupyterLab writes for itself goes to `private`."""
    _write_settings(private / "settings" / "@jupyterlab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(root, port, secrets.token_hex(16))
    folders = {name: str(private / folder) for name, folder in FOLDERS.items()}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--IdentityProvider.token={lab.token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
        "--ServerApp.port_retries=0",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    with (private / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env=kernel_environment() | folders,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(lab, server, private / "server.log")
            yield lab
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_for(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            address = f"{lab.url}/api?token={lab.token}"
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(
        f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}"
    )


def launch(playwright: Playwright, path: str) -> Browser:
    """Start the system's Chromium, without a window."""
    return playwright.chromium.launch(executable_path=path, args=list(QUIET))
