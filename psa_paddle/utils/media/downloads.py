"""Downloads with limits in size and time."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .errors import MediaError, shown

SILENCE = 30  # seconds without a byte
HEADER_TIME = 60  # seconds from a connection to the end of the answer's headers
TOTAL_TIME = 3600  # seconds
SLOW_TIME, SLOW_BYTES = 30, 30 << 10  # fewer bytes in that many seconds are no download: 1 KiB a second
CHUNK = 1 << 18
FAILURES = (
    requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError,
)  # fmt: skip


class _Deadline:
    """Shut where the headers come too slowly: the timeout of a socket begins anew with each byte."""

    def getresponse(self):
        timer = threading.Timer(HEADER_TIME, socket.socket.shutdown, (self.sock, socket.SHUT_RDWR))
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()


class _Pool(HTTPConnectionPool):
    ConnectionCls = type("_Connection", (_Deadline, HTTPConnection), {})


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = type("_SecureConnection", (_Deadline, HTTPSConnection), {})


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args, **kwargs):
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args, **kwargs):
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager

    def close(self):
        """Close kept connections now, where urllib3 would leave it to the garbage collector."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():
                manager.pools[key].close()
        super().close()


Progress = Callable[[int, int], None]


def download(url: str, kind: str, max_bytes: int, file, progress: Progress | None = None) -> None:
    """Write what an http(s) URL answers to ``file``, and go back to its start.

    progress: called with the bytes that have come, and how many there will be; 0 where the server does not say.

    Raises:
        MediaError: another scheme, an HTTP error, nothing, more than ``max_bytes``, too slow, or cut off.
    """
    name = f"{kind} URL '{shown(url)}'"
    if url.partition("://")[0].lower() not in ("http", "https"):
        raise MediaError(f"{name} is not http or https; download it yourself and give the path.")
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter())
            with session.get(url, stream=True, timeout=SILENCE) as answer:
                _check_status(answer, name)
                _receive(answer, name, max_bytes, file, progress or (lambda done, total: None))
    except MediaError:
        raise
    except FAILURES as error:  # its text may hold the URL with its password
        raise MediaError(f"{name} could not be downloaded ({type(error).__name__}); check the address.") from None
    file.seek(0)


def _check_status(answer, name: str) -> None:
    if answer.status_code >= 400:
        reason = f"{answer.status_code} {shown(answer.reason or '')}".strip()
        raise MediaError(f"{name} answered {reason}; check the address.")


def _receive(answer, name: str, max_bytes: int, file, progress: Progress) -> None:
    announced = answer.headers.get("Content-Length", "")
    total = int(announced) if announced.isdecimal() and "Content-Encoding" not in answer.headers else 0
    too_large = MediaError(f"{name} is larger than {max_bytes >> 20} MiB; download it and shorten it first.")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    started = marked = time.monotonic()
    size = marked_size = 0
    while chunk := answer.raw.read1(CHUNK, decode_content=True):
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        _store(file, chunk, name)
        progress(size, total)
        now = time.monotonic()
        if now - started > TOTAL_TIME:
            raise MediaError(f"{name} took longer than {TOTAL_TIME / 60:g} minutes; download it yourself.")
        if now - marked > SLOW_TIME:
            if size - marked_size < SLOW_BYTES:
                raise MediaError(f"{name} sends less than 1 KiB a second; download it yourself.")
            marked, marked_size = now, size
    if size == 0:
        raise MediaError(f"{name} answered with an empty file.")


def _store(file, chunk: bytes, name: str) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise MediaError(f"{name} could not be kept on this disk: {error.strerror}.") from None
