"""Where errors are provoked: a machine with one plugin installed, and texts without what differs by machine."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import fslm_core
from fslm_core import backends, govern
from fslm_core.engine import Engine
from fslm_core.errors import FslmError
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load

HERE = Path(__file__).parent
SOURCE = Path(fslm_core.__file__).parent.parent
_METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: 1.0\n"


@dataclass
class Scene:
    """A fresh machine.

    Attributes:
        home: the working folder, with ``fslm.toml``, the trace and the cache.
        site: where plugins are installed.
        patch: sets variables and attributes until the case ends.
        tiny_model: makes folders of tiny random models; needs torch.
    """

    home: Path
    site: Path
    patch: Any
    tiny_model: Callable[..., Path]
    shown: dict[str, str] = field(default_factory=dict)

    def install(self, name: str, code: str, *, distribution: str = "") -> None:
        """Install a plugin as pip would: a module and a dist-info."""
        distribution = distribution or f"fslm-{name}"
        (self.site / f"{distribution.replace('-', '_')}_plugin.py").write_text(code, encoding="utf-8")
        info = self.site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(_METADATA.format(distribution), "utf-8")
        (info / "entry_points.txt").write_text(f"[fslm]\n{name} = {distribution.replace('-', '_')}_plugin\n", "utf-8")

    def set(self, name: str, value: object) -> None:
        """Set a variable of the environment."""
        self.patch.setenv(name, str(value))

    def fslm(self, *args: str, stdin: bytes = b"") -> str:
        """What a failing ``fslm`` says on standard error."""
        from fslm_core.cli import main

        out, err = io.StringIO(), io.StringIO()
        self.patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with redirect_stdout(out), redirect_stderr(err):
            code = main(args)
        assert code != 0, err.getvalue()
        assert "Traceback" not in err.getvalue()
        return self.normal(err.getvalue())

    def lock(self, stack: str) -> None:
        """Lock a stack, as ``fslm lock STACK`` does."""
        settings = self.settings()
        host = PluginHost(settings)
        backend = backends.create(settings.backend, settings, extra=host.backends)
        govern.write(settings.lock_file, host, settings, backend, [stack])

    def raised(self, kind: type[FslmError], act: Callable[[], object]) -> str:
        """What ``act`` raises, as the last lines of a traceback show it."""
        try:
            act()
        except kind as error:
            assert type(error) is kind
            return self.normal(f"{kind.__name__}: {error}")
        raise AssertionError(f"{kind.__name__} was not raised")

    def settings(self, **more: Any) -> Settings:
        """Settings for this machine."""
        return load(files=(), **more)

    def host(self) -> PluginHost:
        """The plugin, as a program may give it."""
        return PluginHost(self.settings(), plugins={"shop": self.shop}, installed=False)

    def engine(self, **more: Any) -> Engine:
        """An engine with the plugin and its backend."""
        return Engine(settings=self.settings(), host=self.host(), **{"backend": "shop.play", **more})

    @property
    def shop(self) -> ModuleType:
        """The plugin's module."""
        import importlib

        return importlib.import_module("fslm_shop_plugin")

    def normal(self, text: str) -> str:
        """The text with names in place of what differs from machine to machine and from run to run."""
        for found, name in {**self.shown, str(self.home): "/home/me", str(self.site): "/site"}.items():
            text = text.replace(found, name)
        text = text.replace(sys.executable, "/usr/bin/python3").replace(str(SOURCE), "/site")
        text = re.sub(r"\b01[0-9a-z]{24}\b", "01kada0000000000000000000r", text)
        text = re.sub(r"process \d+, opened in \d+", "process 4712, opened in 4711", text)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", text)
        text = re.sub(r"(?<=plugin\.py, line )\d+", "9", text)
        return re.sub(r"sha256 [0-9a-f]{64}", "sha256 3f…", text).rstrip("\n")


@contextmanager
def made(folder: Path, patch: Any, tiny_model: Callable[..., Path]) -> Iterator[Scene]:
    """Make a scene in an empty folder; what was imported of its plugins is forgotten afterwards."""
    home, site = folder / "home", folder / "site"
    home.mkdir()
    site.mkdir()
    for name in [name for name in os.environ if name.startswith("FSLM_")]:
        patch.delenv(name)
    (home / "fslm.toml").touch()
    values = {"CONFIG": home / "fslm.toml", "DATA_DIR": home / "data", "CACHE_DIR": home / "cache"}
    for name, value in {**values, "BACKEND": "shop.play", "PLUGINS": "shop"}.items():
        patch.setenv(f"FSLM_{name}", str(value))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(SOURCE)]))
    patch.setenv("COLUMNS", "100")
    patch.syspath_prepend(site)
    patch.chdir(home)
    scene = Scene(home, site, patch, tiny_model)
    scene.install("shop", (HERE / "shop_plugin.py").read_text("utf-8"))
    try:
        yield scene
    finally:
        for name in [name for name in sys.modules if name.endswith("_plugin")]:
            del sys.modules[name]
