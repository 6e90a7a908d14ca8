"""Serve the page until somebody ends the process."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..integrations.language.answering.messages import Looking
from ..integrations.language.answering.reports import Report
from ..integrations.language.choice import AttentionChoice
from ..integrations.language.inference import QwenVLInference
from .limits import Limits
from .site import Reporter, Site
from .uploads import Uploads

INSTALL = "pip install 'psa_paddle[web]', or in a checkout pip install -e '.[web]'"
SWEEP_SECONDS = 5.0
MOST_EVENTS = 200  # that wait in Gradio's own queue: clicks, none of which does work there


@dataclass(frozen=True)
class Settings:
    """host, port: where to listen; looking, given, default, max_tokens, limits: as in ``Site``."""

    host: str = "127.0.0.1"
    port: int = 7860
    looking: Looking = field(default_factory=Looking)
    given: AttentionChoice | None = None
    default: str = "balanced"
    max_tokens: int = 512
    limits: Limits = field(default_factory=Limits)


def check_gradio() -> None:
    """Raises ValueError where Gradio is not installed, with the command that installs it."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(f"the page needs Gradio, which is not installed: {INSTALL}.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_free(host: str, port: int) -> None:
    """Raises ValueError where nobody can listen."""
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must be a number from 1 to 65535, got {port}.")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror}); name others."
        ) from None


@contextmanager
def gradio_environment(folder: Path) -> Iterator[None]:
    """What Gradio reads from the environment: its files go to our folder, nothing is told to anybody, and requests to
    this machine pass no proxy."""
    hosts = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    wanted = {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": hosts,
        "no_proxy": hosts,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def sweeping(site: Site) -> Iterator[None]:
    """Put away what nobody uses, every few seconds."""
    done = threading.Event()

    def sweep() -> None:
        while not done.wait(SWEEP_SECONDS):
            site.sweep()

    thread = threading.Thread(target=sweep, name="sweeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def listening(site: Site, settings: Settings) -> Iterator[str]:
    """Serve the page meanwhile; yields its address."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .gate import Gate
    from .page import CSS, FONTS, Page

    limits = settings.limits
    # A name that somebody else lets point here must not reach a page that is for this machine alone.
    hosts = ["127.0.0.1", "localhost", settings.host] if is_loopback(settings.host) else ["*"]
    page = Page(site)
    page.blocks.queue(max_size=MOST_EVENTS, api_open=False)
    try:
        _, address, _ = page.blocks.launch(
            server_name=settings.host,
            server_port=settings.port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            max_file_size=limits.upload_bytes,
            max_threads=2 * limits.waiting + 16,
            i18n=page.words,
            theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
            css=CSS,
            app_kwargs={
                "middleware": [
                    Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
                    Middleware(Gate, uploads=site.uploads, limits=limits),
                ],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )
        yield address
    finally:
        page.blocks.close(verbose=False)


@contextmanager
def serving(make_model: Callable[[Report], QwenVLInference], progress: Report, settings: Settings) -> Iterator[str]:
    """Load the model and serve the page meanwhile; yields its address. Afterwards nothing is left on the disk.

    make_model: is given what to tell its progress to; progress: hears of loading.

    Raises:
        ValueError: no Gradio, an address that is taken, a model that cannot be used.
    """
    check_gradio()
    check_free(settings.host, settings.port)
    reporter = Reporter(progress)
    model = make_model(reporter)
    uploads = Uploads()
    try:
        s = settings
        site = Site(model, reporter, uploads, s.looking, s.given, s.default, s.max_tokens, s.limits)
        try:
            with gradio_environment(uploads.arriving), sweeping(site), listening(site, settings) as address:
                yield address
        finally:
            site.close()
    finally:
        uploads.close()


def serve(
    make_model: Callable[[Report], QwenVLInference], progress: Report, settings: Settings, tell: Callable[[str], None]
) -> None:
    """``serving`` until the process is interrupted; tell: is told the address."""
    with serving(make_model, progress, settings) as address:
        tell(address)
        threading.Event().wait()
