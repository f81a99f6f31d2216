"""However ``fslm`` fails, in a process of its own: a code, an exit code that is documented, and never a traceback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import fslm_core
from fslm_core.cli.errors import kinds
from fslm_core.cli.root import EXIT_CODES

from .conftest import Result, install

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and shells")

SHOP = Path(__file__).parents[2] / "contract" / "shop_plugin.py"
SOURCE = Path(fslm_core.__file__).parent.parent
FORBIDDEN = (
    "Traceback",
    "never retrieved",
    "was destroyed",
    "Exception ignored",
    "Exception in thread",
    "\x1b",
    ", line 1, in",
)


@dataclass(frozen=True)
class Call:
    """One call of ``fslm``.

    Attributes:
        line: what is typed; ``fslm`` stands for the command.
        code: the exit code it must have.
        says: what stands on standard error; nothing at all where empty.
        variables: of its environment; None unsets one.
        files: to be written before, by their path from the working folder.
    """

    line: str
    code: int
    says: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


BROKEN = {"FSLM_PLUGINS": "shop,sick"}
BARE = {"HOME": None, "XDG_CONFIG_HOME": None, "XDG_DATA_HOME": None, "XDG_CACHE_HOME": None, "FSLM_CONFIG": None}

CALLS = {
    "bad verb": Call("fslm rum", 2, "error[usage] fslm: No such command 'rum'"),
    "bad option": Call("fslm list --nope", 2, "error[usage] fslm list: No such option: --nope"),
    "debug after the verb": Call("fslm list --debug", 2, "`fslm --debug list …`"),
    "bad file": Call("fslm batch shop none.jsonl --out o.jsonl", 2, "error[usage] none.jsonl"),
    "bad input": Call("fslm run shop.order '{'", 2, "error[input] argument"),
    "missing plugin": Call("fslm run weather hello", 2, "error[unknown-name]"),
    "plugin that cannot be imported": Call("fslm run sick hello", 4, "error[plugin-load]", BROKEN),
    "plugin that calls for an exit": Call(
        "fslm run sick hello", 4, "it called sys.exit()", {**BROKEN, "SICK": "raise SystemExit(3)"}
    ),
    "plugin that raises a BaseException": Call(
        "fslm run sick hello", 4, "found: BaseException: so", {**BROKEN, "SICK": "raise BaseException('so')"}
    ),
    "verb that raises": Call("fslm audit", 70, "error[internal] "),
    "verb that raises a BaseException": Call("fslm leave base", 70, "BaseException: not even an Exception"),
    "verb out of memory": Call("fslm leave memory", 4, "error[system] this machine: there is not enough memory"),
    "verb without an end": Call("fslm leave deep", 70, "RecursionError"),
    "verb that exits with a text": Call("fslm leave text", 70, "SystemExit: the ledger is closed"),
    "verb that exits with a number": Call("fslm leave number", 7, ""),
    "verb that is interrupted": Call("fslm leave interrupt", 130, "interrupted"),
    "working folder that is gone": Call("fslm leave cwd", 4, "error[system] this machine: the system refused"),
    "check that raises": Call("fslm run shop hook", 1, "error[stage-failed]"),
    "stage out of memory": Call("fslm run shop memory", 1, "error[tool]"),
    "stage without an end": Call("fslm run shop deep", 1, "RecursionError"),
    "stage that calls for an exit": Call("fslm run shop exit", 1, "error[tool] stack shop, step loud"),
    "stage that raises KeyboardInterrupt": Call("fslm run shop killed", 1, "found: KeyboardInterrupt"),
    "backend that raises": Call("fslm run shop.topic trips", 70, "error[internal] stack shop.topic"),
    "settings that are a folder": Call("fslm list", 2, "error[settings] ", {"FSLM_CONFIG": "."}),
    "settings that are no text": Call("fslm list", 2, "error[settings] ", files={"fslm.toml": b"\xff\xfe\x00"}),
    "data folder that is a file": Call("fslm run shop hello", 4, "error[store] ", {"FSLM_DATA_DIR": "fslm.toml"}),
    "task that was forgotten": Call("fslm run shop forgotten", 0, "warning: an error in the background: ValueError"),
    "thread that fails": Call("fslm leave thread", 0, "warning: an error in the background: LookupError"),
    "finaliser that fails": Call("fslm leave finaliser", 0, ""),
    "library that warns": Call("fslm leave warning", 0, "warning: this will go away (FutureWarning, "),
    "library that logs": Call("fslm leave log", 0, "warning: an error in the background: LookupError"),
    "standard output closed": Call("fslm list >&-", 4, "error[system] standard output"),
    "standard error closed": Call("fslm run weather hello 2>&-", 2, ""),
    "standard input closed": Call("fslm run shop.order - <&-", 2, "error[input] standard input"),
    "everything closed": Call("fslm run shop hello <&- >&- 2>&-", 4, ""),
    "standard output full": Call("fslm errors >/dev/full", 4, "No space left on device"),
    "reader that is gone": Call("set -o pipefail; fslm errors --json | :", 1, ""),
    "locale without letters": Call(
        "fslm run Größe é", 2, "no stack named 'Größe'", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
    "dumb terminal": Call("fslm run weather x", 2, "error[unknown-name]", {"TERM": "dumb"}),
    "no home": Call("fslm run weather x", 2, "error[unknown-name]", BARE),
    "interrupted while it is imported": Call(
        "fslm list", 130, "", {"PYTHONPATH": "first"}, {"first/typer.py": b"raise KeyboardInterrupt"}
    ),
    "installed in part": Call(
        "fslm list",
        70,
        "error[internal] fslm: the command line cannot start",
        {"PYTHONPATH": "first"},
        {"first/typer.py": b"import no_such_package"},
    ),
}


def done(call: Call, folder: Path) -> subprocess.CompletedProcess[str]:
    """Make the call on a machine of its own."""
    home, site = folder / "home", folder / "site"
    for place in (home, site):
        place.mkdir(parents=True)
    for name, data in {"fslm.toml": b"", **call.files}.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(data)
    install(site, "shop", SHOP.read_text("utf-8"))
    install(site, "sick", "import os\nexec(os.environ.get('SICK', 'import no_such_package'))\n")
    path = [call.variables.get("PYTHONPATH"), str(site), str(SOURCE)]
    wanted: dict[str, str | None] = {
        **{name: None for name in os.environ if name.startswith("FSLM_")},
        "FSLM_CONFIG": "fslm.toml",
        "FSLM_DATA_DIR": "data",
        "FSLM_CACHE_DIR": "cache",
        "FSLM_BACKEND": "shop.play",
        "FSLM_PLUGINS": "shop",
        **call.variables,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    environment = {k: v for k, v in {**os.environ, **wanted}.items() if v is not None}
    command = f"{shlex.quote(sys.executable)} -m fslm_core"
    line = re.sub(r"\bfslm (?=\w|-)", lambda _: f"{command} ", call.line)
    return subprocess.run(["bash", "-c", line], cwd=home, env=environment, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("name", CALLS)
def test_it_fails_with_a_code_and_no_traceback(tmp_path: Path, name: str) -> None:
    call = CALLS[name]
    process = done(call, tmp_path / "call")
    assert process.returncode == call.code, process.stderr
    assert call.says in process.stderr
    assert call.says or not process.stderr
    assert not [text for text in FORBIDDEN if text in process.stderr]
    codes = {f"error[{kind.code}]": kind.exit_code for kind in kinds()}
    told = re.findall(r"^error\[[\w-]+\]", process.stderr, re.MULTILINE)
    assert len(told) == (call.code not in (0, 7, 130) and bool(call.says))
    assert [codes[code] for code in told] in ([], [call.code])


@pytest.mark.parametrize(
    ("line", "code", "raised"),
    [
        ("fslm --debug audit", 70, "LookupError: no such ledger"),
        ("fslm --debug run shop empty", 1, "ValueError: there is nothing on the shelf"),
        ("fslm --debug run sick hello", 4, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("fslm --debug run shop.topic trips", 70, "LookupError: a fault of this backend"),
        ("fslm --debug leave thread", 0, "LookupError: no such ledger"),
        ("fslm --debug list --nope", 2, "NoSuchOption"),
    ],
)
def test_debug_shows_what_was_raised_and_where(tmp_path: Path, line: str, code: int, raised: str) -> None:
    process = done(Call(line, code, "", BROKEN), tmp_path)
    assert process.returncode == code
    assert "Traceback (most recent call last)" in process.stderr and raised in process.stderr
    assert ("error[" in process.stderr) is (code != 0)


def test_a_code_is_explained_without_a_network(fslm: Callable[..., Result]) -> None:
    shown = fslm("errors", "input")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("error[input]  InputError, exit code 2, a kind of UsageError, FslmError\n\n")
    assert "\nNext: give what expected says." in shown.out
    assert fslm("errors", "--json").data == [fslm("errors", kind.code, "--json").data for kind in kinds()]
    assert all(kind.code in fslm("errors").out for kind in kinds())
    assert "did you mean 'input'?" in fslm("errors", "inputs").err


def test_every_exit_code_of_an_error_is_documented() -> None:
    assert {kind.exit_code for kind in kinds()} == set(EXIT_CODES) - {0}
    assert {call.code for call in CALLS.values()} <= {*EXIT_CODES, 7}
