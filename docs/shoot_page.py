"""Takes the pictures of ``psa-paddle web`` that the READMEs show; ``make web-test`` installs what it needs."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PORT, WIDTH, HEIGHT = 7869, 1400, 1150
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


def shoot(browser, language: str, locale: str) -> None:
    page = browser.new_context(locale=locale, viewport={"width": WIDTH, "height": HEIGHT}).new_page()
    page.goto(f"http://127.0.0.1:{PORT}/")
    page.click("#sample-video")
    page.wait_for_selector("#shown .strip", timeout=120_000)
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#report", timeout=120_000)
    page.wait_for_timeout(2000)
    page.evaluate("window.scrollTo(0, 0)")
    path = ROOT / "docs" / "images" / f"web_{language}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def main() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "psa_paddle", "web", "--port", str(PORT)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        server.stdout.readline()  # its address: it listens
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for language, locale in (("en", "en-US"), ("zh", "zh-CN")):
                shoot(browser, language, locale)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
