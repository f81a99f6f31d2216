"""A machine for a campaign to break: a home of its own, one small plugin, and ``fslm`` in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fslm_core import settings
from fslm_core.settings import Settings

Kind = Literal["tool", "support"]

_PLUGIN = '''
import asyncio
import hashlib

from pydantic import BaseModel, Field

from fslm_core import Stack, Step, hookimpl, tool


class Said(BaseModel):
    text: str = Field(max_length=200, json_schema_extra={"sensitive": False})
    phone: str = Field("", max_length=40, json_schema_extra={"sensitive": True})


class Counted(BaseModel):
    letters: int
    mark: str = Field(max_length=64)


class Answer(BaseModel):
    text: str = Field(max_length=200)
    mark: str = Field(max_length=64)
    phone: str = Field("", max_length=40, json_schema_extra={"sensitive": True})


@tool("campaign.count", version="1", pure=True)
async def count(message: Said) -> Counted:
    """Count the letters; it takes a while."""
    await asyncio.sleep(0.004)
    if "fail" in message.text:
        raise ValueError("told to fail")
    return Counted(letters=len(message.text), mark=hashlib.sha256(message.text.encode()).hexdigest())


@tool("campaign.answer", version="1", pure=True)
async def answer(message: Answer) -> Answer:
    """Say it back."""
    await asyncio.sleep(0.002)
    return message


stack = Stack(
    "campaign",
    input=Said,
    output=Answer,
    steps=[count, Step(answer, bind={"text": "input.text", "mark": "count.mark", "phone": "input.phone"})],
    bind={name: f"answer.{name}" for name in Answer.model_fields},
)


@hookimpl
def fslm_stages():
    return [count, answer]


@hookimpl
def fslm_stacks():
    return [stack]
'''


@dataclass(frozen=True)
class Household:
    """One machine: its folder, what runs on it, and the environment of its processes."""

    folder: Path
    stack: str
    environment: dict[str, str]
    concurrency: int

    @property
    def settings(self) -> Settings:
        """The settings as far as they say where the trace is."""
        return settings.load(files=(), data_dir=self.folder / "data")

    @property
    def trace(self) -> Path:
        """The trace database."""
        return self.folder / "data" / "trace.db"

    def fslm(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start ``fslm`` in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "fslm_core", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )

    def whole(self, *arguments: str) -> tuple[int, str, str]:
        """Run ``fslm`` to its end: exit code, standard output, standard error."""
        process = self.fslm(*arguments)
        out, err = process.communicate()
        return process.returncode, out.decode(), err.decode()


def settle(folder: Path, kind: Kind, **variables: str) -> Household:
    """Make a home in an empty folder; ``variables`` are added to the environment."""
    site = folder / "site"
    info = site / "fslm_campaign-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "campaign_plugin.py").write_text(_PLUGIN, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fslm-campaign\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[fslm]\ncampaign = campaign_plugin\n", "utf-8")
    (folder / "fslm.toml").write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FSLM_") or "CACHE" in name}
    environment = {
        **kept,
        "FSLM_CONFIG": str(folder / "fslm.toml"),
        "FSLM_DATA_DIR": str(folder / "data"),
        "FSLM_PLUGINS": "campaign" if kind == "tool" else "support",
        "PYTHONPATH": os.pathsep.join([str(site), str(_source()), os.environ.get("PYTHONPATH", "")]),
        "NO_COLOR": "1",
        **variables,
    }
    return Household(folder, "campaign" if kind == "tool" else "support", environment, 8 if kind == "tool" else 1)


def _source() -> Path:
    import fslm_core

    return Path(fslm_core.__file__).parent.parent


def texts(kind: Kind, count: int) -> list[str]:
    """What a stack is asked, all different."""
    if kind == "tool":
        return [f"message {number}{' fail' if number % 17 == 5 else ''}" for number in range(count)]
    asked = ["Where is order {}?", "I want to cancel order {}.", "Refund me {} euros, please.", "Change address {}."]
    return [asked[number % len(asked)].format(1000 + number) for number in range(count)]


def write_rows(path: Path, lines: Sequence[str], *, broken: bool) -> None:
    """Write an input: an object a line, and with ``broken`` a line here and there that is none."""
    rows = ["{" if broken and number % 23 == 11 else json.dumps({"text": text}) for number, text in enumerate(lines)]
    path.write_text("".join(f"{row}\n" for row in rows), "utf-8")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The whole rows of an output; what is after the last line end is none."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


def without_ids(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as they are in every batch over the same input; what an error quotes of a run's id is left out."""
    made = []
    for row in rows:
        plain = {name: value for name, value in row.items() if name != "run"}
        if row.get("run"):
            plain = json.loads(json.dumps(plain).replace(row["run"], "RUN"))
        made.append(plain)
    return made


__all__ = ["Household", "Kind", "rows_of", "settle", "texts", "without_ids", "write_rows"]
