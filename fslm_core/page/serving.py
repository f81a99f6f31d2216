"""The server: where it listens, and how it ends."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn

from ..errors import SystemRefusedError, UsageError
from .app import make
from .desk import Desk
from .guard import LOOPBACK

SHORTEST = 12
"""Characters of a key."""


class Server(uvicorn.Server):
    """Ends at once: nobody who only looks at something keeps it from ending."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal, and let everybody go who waits for something to change."""
        self._desk.ending.set()
        super().handle_exit(sig, frame)


def check_place(host: str, key: str | None) -> None:
    """Refuse to be asked by other machines without a key, and a key that can be guessed.

    Raises:
        UsageError: see above.
    """
    if host not in LOOPBACK and key is None:
        raise UsageError(
            "other machines could read everything that was said in your runs",
            where=f"--host {host}",
            expected="127.0.0.1, which only this machine reaches; or a key that whoever asks must know",
            hint="leave --host out (`ssh -L 8600:127.0.0.1:8600 …` leads there), or set the key: FSLM_UI__KEY=…",
        )
    if key is not None and len(key) < SHORTEST:
        raise UsageError(
            "the key is too short",
            where="the key of the page",
            found=f"{len(key)} characters",
            expected=f"at least {SHORTEST}",
            hint="make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        SystemRefusedError: the address is none of this machine's, or is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        made = socket.create_server((str(address[0]), port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise SystemRefusedError(
            f"the server cannot listen there: {getattr(error, 'strerror', None) or error}",
            where=f"{host}, port {port}",
            hint="take another port: --port 0 takes a free one",
        ) from error
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a page's last packet waits 40 ms for its turn
    return made


def server(desk: Desk, host: str) -> Server:
    """A server of the page, to be run with sockets of :func:`listen`."""
    hosts = LOOPBACK | {host} if host in LOOPBACK else None
    config = uvicorn.Config(
        make(desk, hosts=hosts),
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    return Server(config, desk)


def address_of(made: socket.socket, host: str) -> str:
    """The address to be opened in a browser."""
    port = made.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


__all__ = ["SHORTEST", "Server", "address_of", "check_place", "listen", "server"]
