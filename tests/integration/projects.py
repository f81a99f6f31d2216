"""A throwaway environment in which generated plugins are built and tried; it sees all that the tests see."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ..throwaway import Throwaway

_BASE = """
from pathlib import Path
from fslm_core.checkpoints.definitions import BUILT_IN, Checkpoint, Folder

BUILT_IN["smollm2-135m"] = Checkpoint("smollm2-135m", Folder(Path({base!r})), licence="Apache-2.0", languages=("en",))
"""

_FEW = """
from fslm_core.testing import StackContract, StageContract, ToolContract

for contract in (StackContract, StageContract, ToolContract):
    contract.max_examples = 5
"""
_QUIETLY = {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "PIP_NO_BUILD_ISOLATION": "0"}


class Place(Throwaway):
    """An environment whose commands run where they are told to, and build without fetching anything."""

    def call(self, *command: str, cwd: Path, **variables: str) -> str:
        """Run a command, which must succeed, in a folder; returns its standard output."""
        program = self.python.with_name(command[0])
        done = subprocess.run(
            [str(program) if program.exists() else command[0], *command[1:]],
            cwd=cwd,
            env={
                **self.environment,
                **_QUIETLY,
                "HYPOTHESIS_STORAGE_DIRECTORY": str(self.folder / "hypothesis"),
                **variables,
            },
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def use_as_base(self, model: Path) -> None:
        """Have ``smollm2-135m`` be this model."""
        (self.site / "sitecustomize.py").write_text(_BASE.format(base=str(model)), encoding="utf-8")

    def try_few_examples(self) -> None:
        """Have ``-p few_examples`` make a pytest that runs in it try five made-up values where it would try fifty."""
        (self.site / "few_examples.py").write_text(_FEW, encoding="utf-8")


__all__ = ["Place"]
