"""A web server on this machine that cuts, stalls, lies and exchanges files as it is told."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest


class Server(http.server.ThreadingHTTPServer):
    """One port from the first request to the last: bound and listening before its address is known."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `site.files`; the next of `site.orders`, if any, says how."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.close_connection = True
        self.site.requests.append((self.path, dict(self.headers.items())))
        order = self.site.orders.pop(0) if self.site.orders else whole()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            order(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


Order = Callable[[Handler], None]


@dataclass
class Site:
    """What the server holds, what it was asked, and how it is to misbehave."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    modified: str = "Fri, 11 May 2012 10:00:00 GMT"
    orders: list[Order] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


def whole(
    stop: int | None = None,
    ranges: bool = True,
    if_range: bool = True,
    reset: bool = False,
    pause: threading.Event | None = None,
    shift: int = 0,
    tell_size: bool = True,
    chunked: bool = False,
) -> Order:
    """A good answer, less what the arguments take from it: `stop` cuts after so many bytes, `pause` stalls there,
    `reset` cuts hard, `shift` answers a range from another byte on."""

    def answer(handler: Handler) -> None:
        site, headers = handler.site, handler.headers
        if handler.path not in site.files:
            return handler.head(404, Content_Length=0)
        data, begin, status = site.files[handler.path], 0, 200
        named: dict[str, object] = {"ETag": site.etag} if site.etag else {}
        named |= {"Last_Modified": site.modified} if site.modified else {}
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
        same = headers.get("If-Range", site.etag) in (site.etag, site.modified)
        if asked and ranges and (same or not if_range):
            begin, status = int(asked[1]) + shift, 206
            if begin >= len(data):
                return handler.head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0)
            named["Content_Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        if chunked:
            named["Transfer_Encoding"] = "chunked"
        elif tell_size:
            named["Content_Length"] = len(data) - begin
        handler.head(status, **named)
        body = data[begin:][:stop]
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        handler.wfile.flush()
        if pause is not None:
            pause.wait(20)
        if reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return None

    return answer


def status(code: int, **headers: object) -> Order:
    return lambda handler: handler.head(code, **{"Content_Length": 0, **headers})


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """A running server, which is asked directly whatever proxy the environment, or a test before, has named."""
    handler = type("SiteHandler", (Handler,), {})
    with pytest.MonkeyPatch.context() as patch, Server(("127.0.0.1", 0), handler) as server:
        patch.setenv("no_proxy", "127.0.0.1")
        handler.site = Site(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield handler.site
        finally:
            server.shutdown()
            thread.join()
