"""Who may ask the page for anything: names of hosts, a key, and where a request comes from.

Whatever is on the page was said in somebody's runs, so nobody else may read it. A site that a person visits can make
their browser ask a server on the same machine; three things stand against it. A request must name this server by a name
that is its own, or an attacker's name that was bound to 127.0.0.1 would make the page one of his (DNS rebinding). What
changes anything must come from the page itself, which a token proves. And browsers are told to load nothing from
elsewhere, to run no script but the page's own, and to show it in no frame.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "fslm_page"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_OPEN = ("/static/", "/key")
"""What may be had without the key: what the form for it needs, and the form."""
HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Stands before an application and lets in what may come in.

    Args:
        hosts: the names by which a request may call this server, whatever the port; None accepts every name, which is
            safe only where there is a key: a site elsewhere does not know it.
        key: what whoever asks must know; None asks for none.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, key: str | None) -> None:
        self._app, self._hosts, self._key = app, hosts, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = self._refusal(scope, Headers(scope=scope))
        await (answer or self._app)(scope, receive, _with_headers(send, scope["path"]))

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if self._hosts is not None and host_of(headers.get("host", "")) not in self._hosts:
            said = f"this server is called {', '.join(sorted(self._hosts))}, and by no other name\n"
            return PlainTextResponse(said, 421)
        if scope["method"] not in ("GET", "HEAD") and not _from_here(headers):
            return PlainTextResponse("this comes from another site\n", 403)
        if self._key is None or scope["path"].startswith(_OPEN) or knows(headers, self._key):
            return None
        if scope["method"] == "GET":
            return RedirectResponse("/key", 303)
        return PlainTextResponse("the key is missing\n", 401)


def host_of(header: str) -> str:
    """The name in a ``Host`` header, without the port.

    >>> host_of("localhost:8600"), host_of("[::1]:8600"), host_of("")
    ('localhost', '::1', '')
    """
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def proof_of(key: str) -> str:
    """What stands in the cookie of who knows the key: not the key itself."""
    return hashlib.sha256(f"fslm page {key}".encode()).hexdigest()


def knows(headers: Headers, key: str) -> bool:
    """Whether a request proves that it knows the key: by a cookie, or by ``Authorization: Bearer``."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and same(given.strip(), key):
        return True
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return False
    return cookie is not None and same(cookie.value, proof_of(key))


def same(given: str, wanted: str) -> bool:
    """Whether two texts are equal, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


def new_token() -> str:
    """What a form must bring to be believed; nobody else can read it off the page."""
    return secrets.token_urlsafe(24)


def _from_here(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _with_headers(send: Send, path: str) -> Callable[[Message], Awaitable[None]]:
    kept = "max-age=3600" if path.startswith("/static/") else "no-store"

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers["cache-control"] = kept
        await send(message)

    return sending


__all__ = ["COOKIE", "HEADERS", "LOOPBACK", "Guard", "host_of", "knows", "new_token", "proof_of", "same"]
