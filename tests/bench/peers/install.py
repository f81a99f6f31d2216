"""Environments for the peers: one virtual environment each, nothing shared, nothing of this project installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from . import ROOT, Peer

CONSTRAINTS = ROOT / "constraints.txt"
_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "GGML_NATIVE=ON", "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF", "LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_OPENSSL=OFF",
)  # fmt: skip


def install(peer: Peer, folder: Path) -> None:
    """Make the peer's environment in ``folder``, unless it is there.

    Raises:
        subprocess.CalledProcessError: pip or the compiler failed.
    """
    if peer.installed(folder):
        return
    home = peer.python(folder).parents[1]
    shutil.rmtree(home, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(home)) if sys.prefix != sys.base_prefix else venv.create(home, with_pip=True)
    torch = _pin("torch")
    if peer.torch:
        _pip(peer, folder, "install", torch, "-c", str(CONSTRAINTS))
    held = ["-c", str(CONSTRAINTS)] if peer.constrained else [torch] if peer.torch else []
    _pip(peer, folder, "install", *peer.requirements, *held)
    if peer.unwanted:
        _pip(peer, folder, "uninstall", "--yes", *peer.unwanted)
    if peer.builds:
        _build(peer, folder, peer.builds)
    (home / "installed").touch()


def _pin(name: str) -> str:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def _build(peer: Peer, folder: Path, version: str) -> None:
    """Build ``llama-server`` for this processor from the sources in llama-cpp-python's sdist."""
    with tempfile.TemporaryDirectory(prefix="llama-cpp-") as scratch:
        place = Path(scratch)
        _pip(
            peer,
            folder,
            "download",
            "--no-deps",
            "--no-binary",
            "llama-cpp-python",
            "--dest",
            scratch,
            f"llama-cpp-python=={version}",
        )
        with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
            archive.extractall(place, filter="data")
        source = next(place.glob("*/vendor/llama.cpp"))
        binaries = peer.python(folder).parent
        options = [f"-D{option}" for option in _OPTIONS]
        make = f"-DCMAKE_MAKE_PROGRAM={binaries / 'ninja'}"
        _run(str(binaries / "cmake"), "-S", str(source), "-B", str(place / "out"), "-G", "Ninja", make, *options)
        _run(str(binaries / "cmake"), "--build", str(place / "out"), "--target", "llama-server")
        shutil.copy(place / "out" / "bin" / "llama-server", binaries)
        (binaries / "llama-server.version").write_text(version, encoding="utf-8")


def _pip(peer: Peer, folder: Path, *arguments: str) -> None:
    _run(str(peer.python(folder)), "-m", "pip", *arguments)


def _run(*command: str) -> None:
    print("$", *command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def install_all(peers: Sequence[Peer], folder: Path) -> list[str]:
    """Install each, and return the names of those that failed."""
    failed = []
    for peer in peers:
        try:
            install(peer, folder)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{peer.name}: {error}", file=sys.stderr)
            failed.append(peer.name)
    return failed


__all__ = ["install", "install_all"]
