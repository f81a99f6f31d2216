"""The page "A mistake, from finding it to being rid of it", command by command, with the real model and adapters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_docs import DOCS, blocks
from .test_docs_first_stage import shown

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(sys.platform != "linux", reason="the gate needs Linux"),
]

FILES = DOCS / "story"
LETTER = "DE:5970:e"


def shell(command: str, here: Path) -> str:
    """What a command of the page prints; it has to succeed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "FSLM_DATA_DIR": str(here / "data"), "PATH": path}
    done = subprocess.run(["bash", "-c", command], cwd=here, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_a_mistake_is_found_explained_mended_and_gone(tmp_path: Path) -> None:
    here = tmp_path / "story"
    shutil.copytree(FILES, here)
    run, said = "", {}
    for block in blocks(DOCS / "story.md"):
        if block.title:
            assert not (here / block.title).exists() or (here / block.title).read_text() == block.text
            (here / block.title).write_text(block.text)
        for command, _ in shown(block) if block.language == "shell-session" else ():
            said[command.split(" RUN")[0]] = shell(command.replace("RUN", run), here)
            if command.startswith("fslm trace search"):
                run = json.loads(shell(f"{command} --json", here))[0]["run"]

    assert f'"entity_value":"{LETTER.removesuffix(":e")}"' in said["fslm trace show"], "what went wrong is shown"
    assert "details" in said["fslm blame support week.jsonl --plot blame.png"]
    assert json.loads(said["fslm trace replay"])["entity_value"] == LETTER
    report = json.loads((here / "gate.json").read_text())
    value = next(field["score"] for field in report["fields"] if field["name"] == "entity_value")
    for figure in (report["exact"], value):
        before, after = figure["before"], figure["after"]
        print(f"{figure['rows']} held-out rows, {figure['name']}: {before} right before, {after} after")
        assert before < after
