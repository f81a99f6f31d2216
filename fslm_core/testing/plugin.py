"""The pytest plugin: ``pytest_plugins = ["fslm_core.testing.plugin"]`` in ``tests/conftest.py``.

Fixtures, the marker ``fslm_weights``, the option ``--fslm-update``, and a test for each case of ``cases/*.yml``.

PYTEST_DONT_REWRITE: there is no assertion here whose parts would be of interest.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from .. import settings as settings_room
from ..backends.protocol import Backend
from ..backends.scripted import ScriptedBackend
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import Stack
from .broken import ContractBroken, shown
from .cases import Case, read_cases, run_case
from .clean import clean_settings, machine
from .engine import KitEngine, Runnable
from .owners import host_of, host_to_run
from .recording import Recording, recorder
from .replies import Reply, script
from .snapshots import Kept

_WRITTEN = "fslm_written"
_TEXT = "files that fslm compares are written anew: snapshots of schemas, golden token ids, recordings"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fslm-update`` and the setting ``fslm_cases``."""
    parser.getgroup("fslm").addoption("--fslm-update", action="store_true", help=_TEXT)
    parser.addini("fslm_cases", "patterns of files with cases", type="args", default=["cases/*.yml", "cases/*.yaml"])


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", 'fslm_weights: needs a model\'s files and the extra torch; leave out with -m "not fslm_weights"'
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of contracts that need weights, before anything is chosen by markers."""
    for item in items:
        if getattr(getattr(item, "function", None), "fslm_weights", False):
            item.add_marker("fslm_weights")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say what to install where a test needs weights and the extra ``torch`` is missing."""
    if item.get_closest_marker("fslm_weights") is not None:
        from ..backends.torch.extra import require

        require()


# -- fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fslm_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Clean settings, which ``Engine()`` and ``fslm`` in this test find, too.

    No variable ``FSLM_*`` and no ``fslm.toml`` has a say; data goes to the test's temporary folder; models that were
    downloaded once are shared with the machine.
    """
    shared = machine()
    for name in [name for name in os.environ if name.upper().startswith("FSLM_")]:
        monkeypatch.delenv(name)
    data = tmp_path / "fslm-data"
    file = tmp_path / "fslm-clean.toml"
    table = {"cache_dir": str(shared.cache_dir), "data_dir": str(data), "offline": shared.offline}
    file.write_text(tomlkit.dumps(table), encoding="utf-8")
    monkeypatch.setenv("FSLM_CONFIG", str(file))
    settings_room.default.cache_clear()
    yield clean_settings(data)
    settings_room.default.cache_clear()


@pytest.fixture
def fslm_host(fslm_settings: Settings) -> Callable[..., PluginHost]:
    """Makes a host of the plugins that are named, and of no others.

    ``fslm_host(fslm_support)``, ``fslm_host("fslm-support")``, ``fslm_host(demo=an_object)``; ``fslm_host()`` is empty.
    """

    def make(*things: object, settings: Settings | None = None, **named: object) -> PluginHost:
        return host_of(things, named, settings or fslm_settings)

    return make


@pytest.fixture
def scripted() -> Callable[..., ScriptedBackend]:
    """Makes a backend of replies: ``scripted({"support.intent": {"intent": "track_order"}})``.

    With ``stack=…`` the replies may be named after its steps.
    """

    def make(replies: Mapping[str, Reply], stack: Stack[Any, Any] | None = None) -> ScriptedBackend:
        return script(replies, stack)

    return make


@pytest.fixture
def fslm_engine(fslm_settings: Settings) -> Iterator[Callable[..., KitEngine]]:
    """Makes open engines on clean settings, closed after the test: ``fslm_engine(triage, replies={…})``."""
    with ExitStack() as opened:

        def make(*stacks: Runnable, **options: Any) -> KitEngine:
            return opened.enter_context(KitEngine(stacks, **{"settings": fslm_settings, **options}))

        yield make


@pytest.fixture
def fslm_recorded(request: pytest.FixtureRequest) -> Callable[..., Backend]:
    """Makes a backend that replays a file below ``recorded/`` beside the test; ``--fslm-update`` records it.

    ``run_stack(triage, {…}, backend=fslm_recorded("triage.jsonl"))``
    """
    kept = _kept(request)

    def make(name: str, *, backend: Backend | str = "torch") -> Backend:
        path = request.path.parent / "recorded" / name
        if not kept.update:
            return Recording(path, again=f"record it where the weights are: `{kept.command}`")
        kept.tell(f"{shown(path)}: recorded")
        return recorder(backend, path)

    return make


@pytest.fixture
def fslm_kept(request: pytest.FixtureRequest) -> Kept:
    """Compares files that are committed beside the tests with what is found, or writes them with ``--fslm-update``."""
    return _kept(request)


def _kept(request: pytest.FixtureRequest) -> Kept:
    node = request.node
    file = node.nodeid.partition("::")[0]
    command = f"python -m pytest {shlex.quote(file)} --fslm-update"
    return Kept(
        bool(request.config.getoption("--fslm-update")),
        command,
        lambda line: node.user_properties.append((_WRITTEN, line)),
    )


# -- what was written -----------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which files ``--fslm-update`` wrote."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = sorted({line for report in reports for name, line in report.user_properties if name == _WRITTEN})
    if lines:
        terminalreporter.section("fslm: files written, look at them before you commit them")
        for line in lines:
            terminalreporter.write_line(line)


# -- cases ----------------------------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect files of cases."""
    patterns: Sequence[str] = parent.config.getini("fslm_cases")
    if any(file_path.match(pattern) for pattern in patterns):
        return CaseFile.from_parent(parent, path=file_path)
    return None


class CaseFile(pytest.File):
    """A file of cases."""

    def collect(self) -> Iterator[CaseItem]:
        """Yield a test for each case."""
        for case in read_cases(self.path):
            yield CaseItem.from_parent(self, name=case.name, case=case)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what is wrong with the file, without a traceback."""
        if isinstance(excinfo.value, ContractBroken):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class CaseItem(pytest.Item):
    """One case as a test."""

    def __init__(self, *, case: Case, **options: Any) -> None:
        super().__init__(**options)
        self.case = case

    def runtest(self) -> None:
        """Run it with the installed plugins that have a part in its stage or stack."""
        run_case(self.case, host_to_run([self.case.target], clean_settings(Path("data"))))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what came of the case, without a traceback."""
        if isinstance(excinfo.value, ContractBroken):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The file, and the case's name."""
        return self.path, None, f"case: {self.name}"


__all__ = ["CaseFile", "CaseItem"]
