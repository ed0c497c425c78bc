"""Reads the body of a prediction request: its maximum size, the time it may take to arrive, and gzip."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Literal

from starlette.requests import Request

from serving.request_decoding import RequestError

Encoding = Literal["gzip"]

_GZIP = 16 + zlib.MAX_WBITS
_ENCODINGS: Mapping[bytes, Encoding | None] = {b"gzip": "gzip", b"x-gzip": "gzip", b"identity": None, b"": None}


class RefusedError(RequestError):
    """A `RequestError` with response headers that tell the client how to go on."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str], *, value: object = None) -> None:
        super().__init__(status, sentence, value=value)
        self.headers = headers


async def read_body(request: Request, limit: int, timeout_s: float) -> tuple[bytes, Encoding | None]:
    """The body of at most `limit` bytes as it was sent, and its encoding.

    Raises:
        RequestError: 408 it did not arrive within `timeout_s`, 413 it is larger, 415 it has another encoding.
        starlette.requests.ClientDisconnect: the client closed the connection.
    """
    encoding: Encoding | None = None
    for name, value in request.scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large(limit, int(value))
        if name == b"content-encoding":
            encoding = _encoding(value)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large(limit, len(body))
    except TimeoutError as error:
        sentence = f"the body did not arrive within {timeout_s:g} s: send the request again, in parts if it is large"
        raise RefusedError(408, sentence, {"Connection": "close"}) from error
    return bytes(body), encoding


def gunzip(body: bytes, limit: int) -> bytes | None:
    """The content of a gzip `body`, None if it has more than `limit` bytes; never uses more memory than that.

    Raises:
        RequestError: 400 it is not gzip, or incomplete.
    """
    content = bytearray()
    try:
        while True:  # one member after the other
            stream, part = zlib.decompressobj(_GZIP), body
            while not stream.eof:
                content += stream.decompress(part, limit + 1 - len(content))
                if len(content) > limit:
                    return None
                part = stream.unconsumed_tail
                if not part and not stream.eof:
                    raise RequestError(400, "the body has content-encoding gzip and ends too early")
            body = stream.unused_data
            if not body:
                return bytes(content)
    except zlib.error as error:
        raise RequestError(400, f"the body has content-encoding gzip and is not gzip: {error}") from error


def too_large(limit: int, size: int | None) -> RequestError:
    """Error for a body of `size` bytes, None if that is unknown."""
    return RequestError(413, f"a request may have at most {limit} bytes, uncompressed: send it in parts", value=size)


def _encoding(value: bytes) -> Encoding | None:
    name = value.strip().lower()
    if name not in _ENCODINGS:
        shown = name.decode("latin-1")
        sentence = f"the content-encoding {shown!r} is not supported: send the body with gzip or without an encoding"
        raise RefusedError(415, sentence, {"Accept-Encoding": "gzip"}, value=shown)
    return _ENCODINGS[name]
