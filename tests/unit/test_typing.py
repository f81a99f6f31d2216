"""What a caller's type checker sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fslm_core

SAMPLE = Path(__file__).parents[1] / "typing" / "sample.py"
_FOUND = re.compile(r"sample\.py:(\d+): (note|error): (.*)")


def test_mypy_sees_the_right_types_and_the_wrong_uses(tmp_path: Path) -> None:
    """Under strict rules, from outside the project: the package's own ``py.typed`` and annotations must do."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    expected = {}
    for number, line in enumerate(lines, 1):
        if (revealed := re.search(r"reveal_type\(.*\)  # (.*)$", line)) is not None:
            expected[number] = f'Revealed type is "{revealed[1]}"'
        elif (code := re.search(r"# type: ignore(\[[a-z-]+\])", line)) is not None:
            expected[number] = code[1]
    sample = tmp_path / "sample.py"
    sample.write_text("\n".join(line.partition("  # type: ignore")[0] for line in lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(sample)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(fslm_core.__file__).parents[1]) if _in_place() else ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    found: dict[int, list[str]] = {}
    for number, kind, text in _FOUND.findall(done.stdout):
        if kind == "error" or text.startswith("Revealed"):
            found.setdefault(int(number), []).append(text)
    assert set(found) == set(expected), done.stdout + done.stderr
    for number, wanted in expected.items():
        assert any(wanted in text for text in found[number]), (lines[number - 1], found[number])


def _in_place() -> bool:
    return "site-packages" not in Path(fslm_core.__file__).parts
