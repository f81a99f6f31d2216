"""What a stranger gets: wheels that hold what they should, installed from a folder, run where nothing can be written.

``python -m tests.campaigns.install`` does the whole of it, with torch, in a network namespace and on a read-only root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ("fslm_echo", "fslm_notes", "fslm_support")
PROJECTS = {"fslm_core": ROOT, **{name: ROOT / "plugins" / name.replace("_", "-") for name in PLUGINS}}
AWAY = {"PIP_CONFIG_FILE": os.devnull, **{f"{s}_PROXY": "http://127.0.0.1:9" for s in ("HTTP", "HTTPS")}}
HIDE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {hidden!r} else find(name, *rest)
"""
Fslm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our wheels and the core's source distribution, as a release would make them."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, project in PROJECTS.items():
        targets = ["-t", "wheel", *(["-t", "sdist"] if name == "fslm_core" else [])]
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *targets]
        subprocess.run(command, cwd=project, check=True, capture_output=True)
    return folder


def contents(wheels: Path, name: str) -> tuple[set[str], Message, str]:
    """A wheel's files below its package, its metadata, its entry points."""
    (wheel,) = wheels.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        (info,) = {file.split("/")[0] for file in files if ".dist-info/" in file}
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    assert {file.split("/")[0] for file in files} == {name, info}
    return {file.partition("/")[2] for file in files if file.startswith(f"{name}/")}, metadata, entry_points


@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_says_what_it_is_and_that_it_is_typed(wheels: Path, name: str) -> None:
    files, metadata, _ = contents(wheels, name)
    assert "py.typed" in files
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    adapters = " AND CC-BY-SA-4.0" if name == "fslm_notes" else ""
    assert metadata["License-Expression"] == f"Apache-2.0{adapters}" and metadata["Requires-Python"] == ">=3.11"


def test_the_core_wheel_holds_the_package_and_its_command(wheels: Path) -> None:
    files, _, entry_points = contents(wheels, "fslm_core")
    assert files == {
        str(path.relative_to(ROOT / "fslm_core")).replace(os.sep, "/")
        for path in (ROOT / "fslm_core").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "fslm = fslm_core.cli:main" in entry_points


@pytest.mark.parametrize(
    ("stack", "steps"),
    [("support", ("category", "intent", "details")), ("notes", ("service", "facts", "summary"))],
)
def test_a_stack_s_wheel_holds_what_runs_and_not_how_it_was_trained(
    wheels: Path, stack: str, steps: tuple[str, ...]
) -> None:
    files, metadata, entry_points = contents(wheels, f"fslm_{stack}")
    of_stage = {"prompt.jinja", *(f"adapter/{n}" for n in ("README.md", "adapter_config.json", "fslm.json"))}
    of_stage.add("adapter/adapter_model.safetensors")
    stages = {f"{stage}/{file}" for stage in steps for file in of_stage}
    assert files == {"__init__.py", "messages.py", "py.typed", *stages}
    assert "fslm-core[torch]<0.2,>=0.1" in metadata.get_all("Requires-Dist", [])
    assert f"[fslm]\n{stack} = fslm_{stack}" in entry_points


def test_the_source_distribution_can_be_tested(wheels: Path) -> None:
    (archive,) = wheels.glob("fslm_core-*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"tox.ini", "constraints.txt", "constraints-lowest.txt", "tests/conftest.py", "LICENSE"} <= names
    assert {"plugins/fslm-echo/pyproject.toml", "plugins/fslm-support/src/fslm_support/__init__.py"} <= names
    assert not [name for name in names if "/runs/" in name or "__pycache__" in name]


@pytest.fixture(scope="module")
def site(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the wheels, from their folder alone."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels), "--no-deps"]
    names = [name.replace("_", "-") for name in PROJECTS]
    subprocess.run([*pip, "--target", str(site), *names], check=True, env={**os.environ, **AWAY})
    return site


@pytest.fixture
def stranger(site: Path, tmp_path: Path) -> Fslm:
    """Calls ``fslm`` of freshly installed wheels in a process that has no network and no place to write.

    Every folder it could write to lies below a file, so that not even a superuser can make it.
    """
    (tmp_path / "taken").touch()
    nowhere = str(tmp_path / "taken" / "below")
    places = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FSLM_", "PIP_", "COV_"))}
    environment = {**kept, **AWAY, **dict.fromkeys(places, nowhere), "PYTHONPATH": str(site)}
    empty = tmp_path / "empty"
    empty.mkdir()

    def call(*arguments: str, hidden: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
        (site / "sitecustomize.py").write_text(HIDE.format(hidden=hidden), encoding="utf-8")
        code = "import sys; from fslm_core.cli import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=empty,
            env={**environment, **more},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )

    return call


def test_where_nothing_can_be_written_a_run_says_what_to_set_or_goes_on(stranger: Fslm) -> None:
    refused = stranger("run", "echo", "hello")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "FSLM_DATA_DIR" in refused.stderr and "trace.on_failure" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = stranger("run", "echo", "hello", FSLM_TRACE__ON_FAILURE="continue")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"echo": "hello"}), done.stderr
    assert "no trace is kept" in done.stderr and "fslm trace show" not in done.stderr


def test_doctor_sees_that_nothing_can_be_written(stranger: Fslm) -> None:
    found = json.loads(stranger("doctor", "--json", FSLM_OFFLINE="1").stdout)
    said = [problem["what"] for problem in found["problems"]]
    assert "the trace cannot be written, so every run fails" in said
    assert "offline, and the model smollm2-135m is not here" in said


def test_without_the_extra_a_stack_of_models_names_it_and_fetches_nothing(stranger: Fslm, tmp_path: Path) -> None:
    packages = ("torch", "transformers", "tokenizers", "safetensors", "peft", "llguidance", "numpy")
    places = {"FSLM_DATA_DIR": str(tmp_path / "data"), "FSLM_CACHE_DIR": str(tmp_path / "cache")}
    done = stranger("run", "support", "where is my order?", hidden=packages, **places)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert "error[missing-extra]" in done.stderr and "python -m pip install 'fslm-core[torch]'" in done.stderr
    assert not (tmp_path / "cache").exists()
    checked = stranger("check", "support", hidden=packages, **places)
    assert checked.returncode == 0 and "python -m pip install 'fslm-core[torch]'" in checked.stderr, checked.stderr
    assert json.loads(stranger("run", "echo", "hi", hidden=packages, **places).stdout) == {"echo": "hi"}


def test_what_pip_installed_of_our_plugins_is_what_we_shipped(stranger: Fslm, site: Path) -> None:
    done = stranger("plugins", "verify", "echo", "notes", "support", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["distribution"]: one for one in json.loads(done.stdout)}
    assert {name: one["adapters"] for name, one in found.items()} == {
        "fslm-echo": 0,
        "fslm-notes": 3,
        "fslm-support": 3,
    }
    assert [one["notes"] for one in found.values()] == [[], [], []]
    weights = site / "fslm_support/intent/adapter/adapter_model.safetensors"
    shipped = weights.read_bytes()
    try:
        weights.write_bytes(shipped[:-1] + bytes([shipped[-1] ^ 1]))
        done = stranger("plugins", "verify", "support", "--json")
        assert done.returncode == 1
        refused = stranger("check", "support")
        assert refused.returncode == 3 and "not those that its fslm.json was written for" in refused.stderr
    finally:
        weights.write_bytes(shipped)
    (one,) = json.loads(done.stdout)
    assert [(d["file"], d["what"]) for d in one["differences"]] == [
        ("fslm_support/intent/adapter/adapter_model.safetensors", "changed"),
        ("fslm_support/intent/adapter/adapter_model.safetensors", "not the weights of its fslm.json"),
    ]
