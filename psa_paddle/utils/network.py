"""Telling failures of the network from others, whichever library met them."""

from __future__ import annotations

from collections.abc import Iterator

import requests

try:
    import httpx

    HTTPX_ERRORS: tuple[type[Exception], ...] = (httpx.HTTPError,)
except ImportError:  # huggingface_hub before 1.0 goes through requests
    HTTPX_ERRORS = ()

BUSY = (408, 429)  # timeout, too many requests: the address is right, the server is not


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from, last first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def network_error(error: BaseException) -> BaseException | None:
    """The failure of the network that an error came from; None where it came from something else."""
    return next((one for one in chain(error) if _is_network(one)), None)


def _is_network(error: BaseException) -> bool:
    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.status_code >= 500 or answer.status_code in BUSY
    if isinstance(error, requests.RequestException):
        return not isinstance(error, ValueError)  # an address that is none
    if isinstance(error, BrokenPipeError):
        return False
    return isinstance(error, (*HTTPX_ERRORS, ConnectionError, TimeoutError))
