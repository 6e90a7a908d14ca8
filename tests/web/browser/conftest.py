"""``psa-paddle web`` as a process, and Chromium before it: ``make web-test``.

Chromium is Debian's, or the one that CHROMIUM names.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shared_demo import ROOT
from shared_web import free_port

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
GRADIO_SAYS = ("Method not implemented.",)  # its own page, when a file was uploaded


def pytest_ignore_collect(config):
    """Nothing of it, and no playwright, unless -m browser asks for it."""
    return True if config.option.markexpr != "browser" else None


class Served:
    """A running page: its address, process, and the folder for temporary files that it has for itself."""

    def __init__(self, folder: Path):
        port, self.temporary = free_port(), folder / "tmp"
        self.temporary.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "2"}
        self.log = open(folder / "log", "w+", encoding="utf-8")
        run = [sys.executable, "-m", "psa_paddle", "web", "--port", str(port), "--idle", "600"]
        pipes = dict(stdout=subprocess.PIPE, stderr=self.log, encoding="utf-8", cwd=folder)
        self.process = subprocess.Popen(run, env=environment, preexec_fn=take_interrupts, **pipes)
        said = self.process.stdout.readline()
        assert said == f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n", said + self.said()
        self.address = said.split()[0]

    def said(self) -> str:
        """Its stderr."""
        self.log.seek(0)
        return self.log.read()

    def files(self) -> list[str]:
        """Names of all files in its folder for uploads."""
        (folder,) = self.temporary.glob("psa_paddle_web_*")
        return [name for _, _, names in os.walk(folder) for name in names]


def take_interrupts():
    """Also where the tests run in the background of a shell, which lets its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The page, for all tests; ended by Ctrl-C, after which nothing is left."""
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 130
    assert not list(served.temporary.glob("psa_paddle_web_*"))
    assert sorted(os.listdir(served.temporary.parent)) == ["log", "tmp"]
    errors = [line for line in served.said().splitlines() if re.search("Error|Traceback|failed", line)]
    assert not errors, served.said()


@pytest.fixture(scope="session")
def chromium():
    """A browser."""
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.fail(f"there is no {CHROMIUM}: apt install chromium, or name another one: CHROMIUM=... make web-test")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, served):
    """Opens the page; afterwards it has asked nothing of others, and its console is empty."""
    contexts, asked, blocked, said = [], [], [], []

    def open_one(locale="en-US", width=1400, where=""):
        contexts.append(chromium.new_context(locale=locale, viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "requestfailed", lambda request: "csp" in (request.failure or "").lower() and blocked.append(request.url)
        )
        page.on("console", lambda message: message.text in GRADIO_SAYS or said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(served.address + where)
        page.wait_for_selector("#report-box p")
        return page

    open_one.said = said
    yield open_one
    for context in contexts:
        context.close()
    others = {url for url in asked if not url.startswith((served.address, "data:", "blob:", "about:"))}
    assert others <= set(blocked)
    assert not said
