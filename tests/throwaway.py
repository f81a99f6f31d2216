"""A virtual environment of its own, into which pip installs for real; the core is that of the tests."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

_FSLM = """\
#!{python}
import sys

from fslm_core.cli import main

sys.exit(main())
"""


class Throwaway:
    """An environment with ``python``, ``pip`` and ``fslm``, an index that is a folder of wheels, and a home.

    What is installed in the environment that runs the tests can be imported, too, and the settings load no plugin of
    it; pip installs, replaces and removes only what is in this one.

    Args:
        folder: an empty one.
        plugins: those that may be loaded.
    """

    def __init__(self, folder: Path, *plugins: str) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.home = folder / "home"
        for place in (self.wheels, self.home):
            place.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
        self.python = folder / "venv" / "bin" / "python"
        self.site = Path(self._said("import sysconfig; print(sysconfig.get_path('purelib'))"))
        outer = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (self.site / "_outer.pth").write_text(outer, encoding="utf-8")
        script = self.python.with_name("fslm")
        script.write_text(_FSLM.format(python=self.python), encoding="utf-8")
        script.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FSLM_", "PIP_", "PYTHON", "COV_"))}
        self.environment = {
            **kept,
            "PATH": os.pathsep.join([str(self.python.parent), os.environ["PATH"]]),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "1",
            "FSLM_CONFIG": os.devnull,
            "FSLM_DATA_DIR": str(folder / "data"),
            "FSLM_CACHE_DIR": str(folder / "cache"),
            "FSLM_PLUGINS": ",".join(plugins),
            "COLUMNS": "120",
        }

    def _said(self, code: str) -> str:
        return subprocess.run(
            [self.python, "-c", code], check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
        ).stdout.strip()

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the home, with the environment's programs first."""
        return subprocess.run(
            command,
            cwd=self.home,
            env={**self.environment, **variables},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )

    def fslm(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``fslm``."""
        done = self.run(str(self.python.with_name("fslm")), *arguments, **variables)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def pip(self, *arguments: str) -> None:
        """Run ``pip``, which must succeed."""
        done = self.run(str(self.python), "-m", "pip", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


__all__ = ["Throwaway"]
