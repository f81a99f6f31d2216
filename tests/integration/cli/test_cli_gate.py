"""``fslm plugins gate`` and ``fslm trace shadow`` as an operator types them: real environments, real wheels."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fslm_core
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.message import CANDIDATE
from fslm_core.plugins import PluginHost
from fslm_core.settings import load

from .conftest import install

Fslm = Callable[..., Any]
ROOT = Path(__file__).parents[3]
SOURCE = Path(fslm_core.__file__).parent.parent
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fslm-tiny"
version = "{version}"
dependencies = ["fslm-core"]

[project.entry-points.fslm]
tiny = "fslm_tiny"
"""
PLUGIN = """
import os
from typing import Annotated

from pydantic import BaseModel, Field

from fslm_core import Stack, hookimpl, tool


class Text(BaseModel):
    text: {text}


class Size(BaseModel):
    label: str
    words: int


@tool("tiny.size", version="{version}")
async def size(message: Text) -> Size:
    label = "long" if len(message.text) > 12 else "short"
    {change}
    return Size(label=label, words=len(message.text.split()))


stack = Stack("tiny", input=Text, output=Size, steps=[size])


@hookimpl
def fslm_stages():
    return [size]


@hookimpl
def fslm_stacks():
    return [stack]
"""
DIES = 'if message.text == "die": os._exit(9)'
CHANGES = """
    if "!" in message.text:
        label = "loud"
    if message.text.endswith("?"):
        raise ValueError("no questions")
"""


def wheel(folder: Path, version: str, change: str, text: str = "str") -> Path:
    """A wheel of the plugin."""
    project = folder / f"project-{version}"
    package = project / "src" / "fslm_tiny"
    package.mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT.format(version=version), "utf-8")
    (package / "__init__.py").write_text(PLUGIN.format(version=version, change=change.strip(), text=text), "utf-8")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (made,) = folder.glob(f"fslm_tiny-{version}-*.whl")
    return made


def environment_of(folder: Path, *wheels: Path) -> Path:
    """An environment that has what this one has, and these wheels; returns its Python."""
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    here = [sysconfig.get_path("purelib"), str(SOURCE)]
    lines = "".join(f"site.addsitedir({path!r}); " for path in here)
    (site / "this_environment.pth").write_text(f"import site; {lines}\n", "utf-8")
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", str(site)]
        subprocess.run([*command, *map(str, wheels)], check=True, capture_output=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Environments with version 1 and version 2, and one without the plugin."""
    folder = tmp_path_factory.mktemp("versions")
    text = "Annotated[str, Field(max_length=30)]"
    one, two = wheel(folder, "1.0", DIES), wheel(folder, "2.0", CHANGES, text)
    made = {"1": environment_of(folder / "one", one), "2": environment_of(folder / "two", two)}
    return {**made, "none": Path(sys.executable)}


@pytest.fixture
def machine(environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where the plugin may be loaded, from its environment alone."""
    monkeypatch.setenv("FSLM_PLUGINS", "tiny")
    monkeypatch.delenv("FSLM_BACKEND")
    monkeypatch.delenv("PYTHONPATH")
    return environment


def call(python: Path, *args: str) -> tuple[int, str, str]:
    """Call ``fslm`` of an environment."""
    done = subprocess.run([str(python), "-m", "fslm_core", *args], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def rows() -> list[dict[str, Any]]:
    """What version 1 makes of 40 texts: 9 shouts, 8 questions, one text that is too long for version 2, 22 others."""
    texts = [f"shout {n}!" for n in range(9)] + [f"why {n}?" for n in range(8)] + ["a very long text " * 3]
    texts += [f"text number {n}" for n in range(22)]
    labels = ["long" if len(text) > 12 else "short" for text in texts]
    return [
        {"input": {"text": text}, "output": {"label": label, "words": len(text.split())}}
        for text, label in zip(texts, labels, strict=True)
    ]


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_the_gate_reports_what_changed_and_shuts(pythons: dict[str, Path], machine: Path) -> None:
    data = written(machine / "rows.jsonl", rows())
    asked = ("plugins", "gate", "--baseline-python", str(pythons["1"]), "--data", str(data), "--json", "out.json")
    code, out, err = call(pythons["2"], *asked)
    report = json.loads((machine / "out.json").read_text("utf-8"))
    assert code == 1, err
    assert (report["rows"], report["changed"], report["complete"], report["open"]) == (40, 18, True, False)
    assert (report["valid"]["before"], report["valid"]["after"], report["valid"]["lost"]) == (40, 31, 9)
    assert (report["exact"]["before"], report["exact"]["after"], report["exact"]["lost"]) == (40, 22, 18)
    fields = {field["name"]: field for field in report["fields"]}
    assert (fields["label"]["rows"], fields["label"]["changed"]) == (31, 9)
    assert fields["label"]["examples"][0] == {"row": "line 1", "before": "short", "after": "loud"}
    assert (fields["words"]["changed"], fields["words"]["score"]["lost"]) == (0, 9)
    assert report["errors"] == {"baseline": {}, "current": {"tool": 8, "input": 1}}
    assert report["baseline"]["plugins"] == ["fslm-tiny 1.0"] and report["current"]["plugins"] == ["fslm-tiny 2.0"]
    assert all(seconds > 0 for seconds in report["seconds"].values())
    assert "40 rows, 18 changed (45.0%)" in out and "no questions" in out and "(invalid)" in out
    assert "shut: valid fell from 40 to 31 of 40 (p = 0.00391)" in err and "shut: exact fell" in err


def test_a_version_beside_itself_opens_the_gate_with_what_the_trace_holds(
    pythons: dict[str, Path], machine: Path
) -> None:
    source = written(machine / "in.jsonl", [row["input"] for row in rows()[9:20]] * 2)
    code, _, err = call(pythons["1"], "batch", "tiny", str(source), "--out", "out.jsonl")
    assert code == 0, err
    asked = ("plugins", "gate", "--baseline-python", str(pythons["1"]), "--traces", "--any-fall", "--max-changed", "0")
    code, out, err = call(pythons["1"], *asked)
    assert code == 0, err
    assert "11 rows, 0 changed (0.0%)" in out and "open: nothing fell" in err  # equal inputs once
    code, listed, _ = call(pythons["1"], "trace", "list", "--json", "-n", "100")
    assert len(json.loads(listed)) == 22  # the gate's own runs are not among them


def test_a_baseline_that_dies_is_told_with_its_row_and_the_rows_before_it_are_compared(
    pythons: dict[str, Path], machine: Path
) -> None:
    lines = [row for row in rows() if "!" not in row["input"]["text"]][9:19]
    lines.insert(4, {"input": {"text": "die"}, "output": {"label": "short", "words": 1}})
    data = written(machine / "rows.jsonl", lines)
    asked = ("--baseline-python", str(pythons["1"]), "--data", str(data), "--concurrency", "1", "--json", "out.json")
    code, out, err = call(pythons["2"], "plugins", "gate", *asked)
    report = json.loads((machine / "out.json").read_text("utf-8"))
    done = report["rows"]  # what was under way when it died is not told
    assert (report["asked"], report["complete"], report["open"]) == (11, False, False) and done <= 4
    assert code == 4 and "error[gate]" in err and "exit code 9" in err
    assert f"line {done + 1}" in err and f"{done} of 11 rows answered" in err and f"{done} rows, 0 changed" in out


def test_a_baseline_without_the_stack_is_told(pythons: dict[str, Path], machine: Path) -> None:
    data = written(machine / "rows.jsonl", rows()[:1])
    asked = ("plugins", "gate", "--baseline-python", str(pythons["none"]), "--data", str(data))
    code, out, err = call(pythons["2"], *asked)
    assert (code, out) == (2, "") and "the baseline has no stack named 'tiny'" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "--baseline-python"),
        (("--baseline-python", "nowhere/bin/python"), "several stacks are installed"),
        (("--baseline-python", "nowhere/bin/python", "--stack", "demo"), "--data FILE or --traces"),
        (("--baseline-python", "p", "--stack", "demo", "--traces", "--data", "in.jsonl"), "--data FILE or --traces"),
        (("--baseline-python", "p", "--stack", "demo", "--traces"), "there is no trace yet"),
        (("--baseline-python", "p", "--stack", "demo", "--data", "none.jsonl"), "none.jsonl"),
        (("--baseline-python", "p", "--stack", "demo", "--data", "in.jsonl", "--json", "no/out.json"), "no folder"),
        (("--baseline-python", "nowhere/python", "--stack", "demo", "--data", "in.jsonl"), "no baseline Python"),
        (("--baseline-python", "p", "--stack", "demos", "--data", "in.jsonl"), "did you mean 'demo'"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_runs(
    fslm: Fslm, environment: Path, args: tuple[str, ...], said: str
) -> None:
    written(environment / "in.jsonl", [{"input": {"text": "a"}, "output": {"shout": "A"}}])
    result = fslm("plugins", "gate", *args)
    assert result.code in (2, 4) and result.out == ""
    assert said in result.err


# -- candidates ------------------------------------------------------------------------------------------------------

CONFIGURED = '[stages."demo.label"]\ncandidate = "v3"\nshadow = 1.0\n'


def test_a_candidate_runs_beside_a_step_and_the_trace_shows_both(fslm: Fslm, environment: Path) -> None:
    (environment / "fslm.toml").write_text(CONFIGURED, "utf-8")
    checked = fslm("check", "demo.label")
    assert checked.code == 0 and "[candidate], in 1 of its runs" in checked.out
    assert fslm("check", "demo.label", "--json").data["steps"][0]["shadow"] == 1.0
    plain = fslm("run", "demo.label", "a good text")
    assert plain.data == {"label": "good"}
    shown = fslm("trace", "show")
    assert re.search(r"candidate +ok +said the same", shown.out)
    (shadow,) = fslm("trace", "show", "--json").data["shadows"]
    assert (shadow["step"], shadow["same"], shadow["agreed"]) == ("label", True, {"label": True})
    found = fslm("trace", "shadow", "demo.label")
    assert found.code == 0 and "1 of 1" in found.out
    (one,) = fslm("trace", "shadow", "demo.label", "--json").data["candidates"]
    assert (one["began"], one["same"]["hits"], one["fields"]["label"]["rows"]) == (1, 1, 1)


def test_a_candidate_that_differs_or_fails_is_shown_as_that(fslm: Fslm, environment: Path) -> None:
    (environment / "fslm.toml").write_text(CONFIGURED, "utf-8")
    settings = load()
    host = PluginHost(settings)
    answers = ['{"label":"bad"}', "nonsense \x1b[31m"]
    backend = ScriptedBackend({"demo.label": '{"label":"good"}', f"demo.label{CANDIDATE}": answers})
    with Engine(["demo.label"], settings=settings, host=host, backend=backend, content="full") as engine:
        runs = []
        for _ in answers:
            runs.append(engine.run("demo.label", {"text": "good"}).id)
            engine.settle()
    differs, failed = (fslm("trace", "show", run).out for run in runs)
    assert re.search(r"candidate +ok +differs in label", differs) and '{"label":"bad"}' in differs
    assert re.search(r"candidate +failed +nothing to compare", failed) and "\\x1b[31m" in failed
    (one,) = fslm("trace", "shadow", "demo.label", "--json").data["candidates"]
    assert (one["own_valid"]["hits"], one["candidate_valid"]["hits"], one["lost"], one["p"]) == (2, 1, 1, 1.0)
    assert "only own valid 1, only candidate valid 0" in fslm("trace", "shadow", "demo.label").out
    unknown = fslm("trace", "shadow", "demo.lable")
    assert unknown.code == 2 and "did you mean 'demo.label'?" in unknown.err


def test_a_batch_is_written_as_without_its_candidates_and_waits_for_the_last_of_them(
    fslm: Fslm, environment: Path
) -> None:
    written(environment / "in.jsonl", [{"text": f"{'good' if n % 3 else 'poor'} {n}"} for n in range(30)])
    assert fslm("batch", "demo.label", "in.jsonl", "--out", "alone.jsonl").code == 0
    (environment / "fslm.toml").write_text(CONFIGURED, "utf-8")
    assert fslm("batch", "demo.label", "in.jsonl", "--out", "beside.jsonl").code == 0
    alone, beside = (
        [json.loads(line)["output"] for line in (environment / name).read_text("utf-8").splitlines()]
        for name in ("alone.jsonl", "beside.jsonl")
    )
    (one,) = fslm("trace", "shadow", "demo.label", "--json").data["candidates"]
    assert alone == beside and len(beside) == 30
    assert (one["began"], one["cancelled"], one["same"]["hits"], one["same"]["rows"]) == (30, 0, 30, 30)


def test_shadow_without_a_candidate_is_refused_by_its_key(fslm: Fslm, environment: Path) -> None:
    (environment / "fslm.toml").write_text('[stages."demo.label"]\nshadow = 0.1\n', "utf-8")
    result = fslm("run", "demo.label", "good")
    assert result.code == 2 and "stages.demo.label.shadow" in result.err and "needs a candidate" in result.err


# -- the page --------------------------------------------------------------------------------------------------------

RULE = """
import json

from fslm_core import hookimpl
from fslm_core.backends.protocol import Capabilities, Generation


class Filler:
    name = "filler"
    capabilities = Capabilities(weights=False)

    async def warm(self, models):
        return [""] * len(models)

    async def open(self, request):
        schema = json.loads(request.grammar)
        choose = -1 if request.model.stage.endswith("~candidate") else 0
        yield Generation(json.dumps({n: fill(p, choose) for n, p in schema["properties"].items()}))

    async def aclose(self):
        pass


def fill(node, choose):
    return node["enum"][choose] if "enum" in node else None


@hookimpl
def fslm_backends():
    return {"filler": lambda settings: Filler()}
"""


@pytest.mark.torch  # where fslm-support is
def test_the_commands_of_the_page_on_upgrading_work(
    environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "upgrading.md").read_text("utf-8")
    (toml,) = re.findall(r"^```toml title=\"fslm.toml\"\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.delenv("FSLM_CONFIG")
    monkeypatch.setenv("FSLM_BACKEND", "filler")
    monkeypatch.setenv("FSLM_PLUGINS", "support,filler")
    (environment / "fslm.toml").write_text(toml.replace("shadow = 0.1", "shadow = 1.0"), "utf-8")  # one run is drawn
    texts = [f"Where is order {n}?" for n in range(3)]
    wanted = {"category": "ACCOUNT", "intent": "create_account", "entity_type": None, "entity_value": None}
    written(environment / "labelled.jsonl", [{"input": {"text": text}, "output": wanted} for text in texts])
    old = environment_of(environment / "old")
    for site in (installed, *old.parent.parent.glob("lib/*/site-packages")):
        install(site, "filler", RULE)
    commands = [line for block in CONSOLE.findall(page) for line in re.findall(r"^\$ (fslm .*)$", block, re.M)]
    assert len(commands) >= 5
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "fslm_core", *shlex.split(command, comments=True)[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
