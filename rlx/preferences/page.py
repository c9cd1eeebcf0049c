"""A page on this machine that shows two clips side by side and takes a person's answers: `serve`.

It is bound to the loopback address. Its path begins with a secret, requests must name this server as their host and, where they
name an origin, as that, so no other site in the same browser can read or answer anything. Everything it needs is in it.
"""

from __future__ import annotations

import functools
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from rlx.preferences.asking import Asking
from rlx.preferences.clips import Clip, Film
from rlx.preferences.page_text import PAGE

HOST = "127.0.0.1"
MOST_BODY = 4096  # bytes of a request
KEPT = 16  # clips in memory


class Page(ThreadingHTTPServer):
    """The server of one `Asking`. ``url`` is what to open; ``finished`` is set by the page's button."""

    daemon_threads = True

    def __init__(self, asking: Asking, film: Film, title: str, question: str, port: int = 0):
        """Raises OSError where the port is taken."""
        super().__init__((HOST, port), _Handler)
        self.asking, self.lock, self.drawing, self.finished = asking, threading.Lock(), threading.Lock(), threading.Event()
        self.token = secrets.token_urlsafe(16)
        self.drawn: Callable[[int, int], Clip] = functools.lru_cache(KEPT)(functools.partial(_clip, asking, film))
        self.title, self.question = title, question

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{host}:{self.server_port}" for host in (HOST, "localhost"))

    @property
    def url(self) -> str:
        return f"http://{self.names[0]}/{self.token}/"

    def state(self) -> dict[str, Any]:
        """For the page, JSON's types."""
        now, done = self.asking.current(), int(self.asking.answered().sum())
        shown = None if now is None else [self.clip(now, side).pictures for side in (0, 1)]
        return {"question": now, "answered": done, "of": len(self.asking), "pictures": shown}

    def clip(self, question: int, side: int) -> Clip:
        """One thread draws at a time, and what it has drawn the others find."""
        with self.drawing:
            return self.drawn(question, side)

    def draw_ahead(self) -> None:
        """The clips of the question after this one, while somebody looks at this one."""
        for question in np.flatnonzero(~self.asking.answered())[1:2]:
            for side in (0, 1):
                with self.drawing:
                    if not self.finished.is_set():
                        self.drawn(int(question), side)


def serve(page: Page) -> None:
    """Answers requests until the page's button says that it is enough (or an interrupt comes)."""
    thread = threading.Thread(target=page.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        while not page.finished.wait(0.2):
            pass
    finally:
        page.shutdown()
        thread.join()
        page.server_close()
        with page.drawing:  # what is being drawn ahead ends before the program does
            pass


def _clip(asking: Asking, film: Film, question: int, side: int) -> Clip:
    asked = asking.asked
    return film(int(asked.episode[side, question]), int(asked.start[side, question]), int(asked.steps[question]))


class _Refused(Exception):
    def __init__(self, code: HTTPStatus, words: str):
        super().__init__(words)
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    server: Page
    server_version, sys_version = "rlx", ""

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self._answered(self._get)

    def do_POST(self) -> None:  # noqa: N802
        self._answered(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the page itself shows what happens."""

    def _answered(self, how: Callable[[str], None]) -> None:
        try:
            how(self._path())
        except _Refused as no:
            self._send(json.dumps({"error": str(no)}).encode(), "application/json", no.code)
        except ValueError as error:
            self._send(json.dumps({"error": str(error)}).encode(), "application/json", HTTPStatus.CONFLICT)
        except ConnectionError:
            pass  # the browser has gone on

    def _path(self) -> str:
        """What is asked for, behind the secret."""
        page, origin = self.server, self.headers.get("Origin")
        if self.headers.get("Host") not in page.names:
            raise _Refused(HTTPStatus.FORBIDDEN, "this server is asked for by another name")
        if origin is not None and origin not in {f"http://{name}" for name in page.names}:
            raise _Refused(HTTPStatus.FORBIDDEN, "another site's page asks")
        _, token, *rest = self.path.split("?")[0].split("/")
        if not hmac.compare_digest(token.encode(), page.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "open the address that the command has printed")
        return "/".join(rest)

    def _get(self, path: str) -> None:
        page = self.server
        if path == "":
            nonce = secrets.token_urlsafe(12)
            words = {"title": escape(page.title), "question": escape(page.question), "nonce": nonce}
            policy = (
                f"default-src 'none'; img-src 'self'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
            )
            return self._send(PAGE.substitute(words).encode(), "text/html; charset=utf-8", policy=policy)
        if path == "state":
            return self._state()
        kind, _, rest = path.partition("/")
        question, _, side = rest.removesuffix(".png").partition("/")
        if kind == "clip" and question.isdecimal() and side in ("0", "1") and int(question) < len(page.asking):
            return self._send(page.clip(int(question), int(side)).strip, "image/png")
        raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, path: str) -> None:
        page, size = self.server, self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > MOST_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MOST_BODY} bytes")
        body = self.rfile.read(int(size))
        if path == "finish":
            self._send(b"{}", "application/json")
            return page.finished.set()
        try:
            with page.lock:
                if path == "undo":
                    page.asking.undo()
                elif path == "answer":
                    given = json.loads(body)
                    page.asking.answer(given["question"], given["answer"])
                else:
                    raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
            raise _Refused(HTTPStatus.BAD_REQUEST, 'give {"question": 0, "answer": "left"}') from None
        except OSError as error:
            raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, f"the answer could not be written: {error.strerror}") from None
        self._state()

    def _state(self) -> None:
        with self.server.lock:
            now = self.server.state()
        self._send(json.dumps(now).encode(), "application/json")
        self.server.draw_ahead()

    def _send(self, body: bytes, kind: str, code: HTTPStatus = HTTPStatus.OK, policy: str = "default-src 'none'") -> None:
        self.send_response(code)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": policy}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
