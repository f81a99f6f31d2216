"""Plugins as people have them: installed distributions, some of them broken, each found by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import fslm_core
from fslm_core.errors import DuplicateNameError, UnknownNameError
from fslm_core.hooks import HOOKS, hookimpl
from fslm_core.message import Problem
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.stack import Stack
from fslm_core.stage import Stage, Tool

GOOD = """
from pydantic import BaseModel
from fslm_core.hooks import hookimpl
from fslm_core.stack import Stack
from fslm_core.stage import tool

class Text(BaseModel):
    text: str

@tool("{name}.same", version="1")
def same(message: Text) -> Text:
    return message

@hookimpl
def fslm_stages():
    return [same]

@hookimpl
def fslm_stacks():
    return [Stack("{name}", input=Text, output=Text, steps=[same], bind={{"text": "same.text"}})]
"""

REPORT = """
import json, sys
from fslm_core.errors import FslmError
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
host = PluginHost(load(files=(), **json.loads(sys.argv[1])))
def tried(what):
    try:
        return repr(what())
    except FslmError as error:
        return str(error)
print(json.dumps({
    "found": [[p.name, p.distribution, p.state] for p in host.found()],
    "imported": sorted(m for m in sys.modules if m.startswith("plug_")),
    "plugins": {p.distribution: [p.state, p.reason] for p in host.plugins},
    "order": [p.distribution for p in host.plugins],
    "imported after": sorted(m for m in sys.modules if m.startswith("plug_")),
    "stages": sorted(host.stages),
    "asked": {name: tried(lambda: host.stack(name)) for name in sys.argv[2:]},
    "observers": [name for name, _ in host.observers],
}))
"""


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, source: str, *, name: str, module: str | None = None) -> None:
        module = module or "plug_" + distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[fslm]\n{name} = {module}\n", encoding="utf-8")

    def report(self, *stacks: str, **settings: Any) -> dict[str, Any]:
        """What a fresh process finds; plugins that are installed beside these are left out."""
        where = os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        where += os.pathsep + str(Path(fslm_core.__file__).parents[1])  # of a checkout that is not installed
        done = subprocess.run(
            [sys.executable, "-c", REPORT, json.dumps(settings), *stacks],
            env={**os.environ, "PYTHONPATH": where},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["found"] = [
            f for f in found["found"] if (self.folder / f"{f[1].replace('-', '_')}-1.2.dist-info").exists()
        ]
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_installed_plugins_are_found_in_order_before_anything_is_imported(site: Site) -> None:
    site.install("b-dist", GOOD.format(name="bee"), name="bee")
    site.install("a-dist", GOOD.format(name="zed"), name="zed")
    found = site.report("bee", "be")
    assert found["found"] == [["zed", "a-dist", "loaded"], ["bee", "b-dist", "loaded"]]
    assert found["imported"] == []
    assert found["imported after"] == ["plug_a_dist", "plug_b_dist"]
    assert found["plugins"]["a-dist"] == ["loaded", ""]
    assert {"bee.same", "zed.same"} <= set(found["stages"])
    assert found["asked"]["bee"] == "Stack('bee', Text -> Text, 1 steps)"
    assert "did you mean 'bee'" in found["asked"]["be"]


BROKEN = [
    ("raise RuntimeError('no such library')", "RuntimeError: no such library"),
    ("import nothing_of_that_name", "ModuleNotFoundError"),
    ("this is no python", "SyntaxError"),
    ("import sys; sys.exit(3)", "sys.exit()"),
    ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    ("def f(): return f()\nf()", "RecursionError"),
    ("x = 1", "implements no hook"),
    ("@hookimpl\ndef fslm_stages(): return 3", "fslm_stages returned the wrong type"),
    ("@hookimpl\ndef fslm_stages(): return None", "fslm_stages returned the wrong type"),
    ("@hookimpl\ndef fslm_stages(): return 'bad.same'", "fslm_stages returned the wrong type"),
    ("@hookimpl\ndef fslm_stages(): return [3]", "expected: a list of Stage"),
    ("@hookimpl\ndef fslm_stages(): return {'bad.same': same}", "found: str"),
    ("@hookimpl\ndef fslm_stages(): return [same, same]", "one name twice"),
    ("@hookimpl\ndef fslm_stages(): raise KeyError('x')", "KeyError"),
    ("@hookimpl\ndef fslm_stages(): yield same; raise KeyError('x')", "KeyError"),
    ("@hookimpl\ndef fslm_stages(): import sys; sys.exit()", "sys.exit()"),
    ("@hookimpl\nasync def fslm_stages(): return []", "wrong type"),
    ("@hookimpl\ndef fslm_stages(settings): return [same]", "fslm_stages"),
    ("@hookimpl\ndef fslm_nothing(): return []", "fslm_nothing"),
    ("@hookimpl(wrapper=True)\ndef fslm_observe(event): yield", "hook wrapper"),
    ("@hookimpl(hookwrapper=True)\ndef fslm_check_message(stage): yield", "hook wrapper"),
    ("@hookimpl\ndef fslm_backends(): return [1]", "fslm_backends returned the wrong type"),
    ("@hookimpl\ndef fslm_backends(): return {'bad': 3}", "expected: a dict of name to function"),
    ("@hookimpl\ndef fslm_backends(): return {'other': print}", "a name outside the plugin's own"),
    ("@hookimpl\ndef fslm_commands(): return {3: print}", "expected: a dict of name to function"),
    ("@hookimpl\ndef fslm_checkpoints(): return [same]", "fslm_checkpoints returned the wrong type"),
    (GOOD.format(name="other"), "a name outside the plugin's own"),
    (GOOD.format(name="badly"), "a name outside the plugin's own"),
]
"""What a module of plugin ``bad`` may hold, and what is said of it."""


@pytest.fixture(scope="module")
def quarantine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All broken plugins and a good one, installed side by side and loaded by one process."""
    site = Site(tmp_path_factory.mktemp("site"))
    for number, (source, _) in enumerate(BROKEN):
        if source.startswith("@hookimpl"):
            source = GOOD.format(name="bad").partition("@hookimpl")[0] + source
        site.install(f"dist-{number}", source.replace("bad", f"bad{number}"), name=f"bad{number}")
    site.install("good-dist", GOOD.format(name="good"), name="good")
    return site.report("good", "good2", *(f"bad{number}.more" for number in range(len(BROKEN))))


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_a_broken_plugin_is_quarantined_with_its_reason(quarantine: dict[str, Any], number: int) -> None:
    state, why = quarantine["plugins"][f"dist-{number}"]
    assert state == "quarantined"
    assert BROKEN[number][1] in why
    said = quarantine["asked"][f"bad{number}.more"]
    assert f"'bad{number}.more' belongs to plugin dist-{number} 1.2, which is quarantined" in said
    assert f"reinstall dist-{number}" in said


def test_broken_plugins_stop_no_other(quarantine: dict[str, Any]) -> None:
    assert quarantine["plugins"]["good-dist"] == ["loaded", ""]
    assert "good.same" in quarantine["stages"]
    assert not [name for name in quarantine["stages"] if name.startswith("bad")]
    assert quarantine["asked"]["good"].startswith("Stack(")


def test_a_blocked_plugin_is_never_imported(site: Site) -> None:
    mark = site.folder / "imported"
    source = f"open({str(mark)!r}, 'w').close()\n" + GOOD.format(name="bee")
    site.install("b-dist", source, name="bee")
    for settings in ({"disable": ["bee"]}, {"disable": ["B_Dist"]}, {"plugins": ["other"]}, {"plugins": []}):
        found = site.report("bee", **settings)
        assert found["found"] == [["bee", "b-dist", "disabled"]]
        assert found["plugins"]["b-dist"][0] == "disabled"
        assert found["imported after"] == []
        assert "which is disabled" in found["asked"]["bee"]
        assert "fslm plugins enable bee" in found["asked"]["bee"]
    assert not mark.exists()
    for settings in ({"plugins": ["bee"]}, {"plugins": ["b.dist"]}, {}):
        assert site.report("bee", **settings)["plugins"]["b-dist"] == ["loaded", ""]
    assert mark.exists()


def test_two_owners_of_one_name_are_both_named_and_neither_wins(site: Site) -> None:
    site.install("one", GOOD.format(name="bee"), name="bee")
    site.install("two", GOOD.format(name="bee"), name="bee")
    found = site.report("bee")
    assert found["plugins"]["one"][0] == found["plugins"]["two"][0] == "loaded"
    assert "bee.same" not in found["stages"]
    assert "two plugins own the stack 'bee'" in found["asked"]["bee"]
    assert "one 1.2 and two 1.2" in found["asked"]["bee"]
    assert site.report("bee", disable=["two"])["asked"]["bee"].startswith("Stack(")


def test_one_module_under_two_names_does_not_take_the_first_one_down(site: Site) -> None:
    source = GOOD.format(name="bee") + "\n@hookimpl\ndef fslm_observe(event): pass\n"
    site.install("one", source, name="bee", module="plug_shared")
    site.install("two", source, name="bee", module="plug_shared")
    found = site.report("bee")
    assert found["plugins"]["one"] == ["loaded", ""]
    assert found["plugins"]["two"][0] == "quarantined"
    assert "bee of one 1.2" in found["plugins"]["two"][1]
    assert found["observers"].count("bee") == 1
    assert found["asked"]["bee"].startswith("Stack(")


# -- what a host makes of plugins it was handed ------------------------------------------------------------------------


class Text(BaseModel):
    text: str


def stage(name: str) -> Stage[Any, Any]:
    return Stage(name, input=Text, output=Text, tool=Tool(lambda message: message, "1"))


class Plugin:
    """A plugin of one stage, with what a test wants beside it."""

    def __init__(self, *stages: Stage[Any, Any], stacks: tuple[Stack[Any, Any], ...] = ()) -> None:
        self.stages = stages
        self.stacks = stacks

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        return list(self.stages)

    @hookimpl
    def fslm_stacks(self) -> list[Stack[Any, Any]]:
        return list(self.stacks)


class Checking(Plugin):
    def __init__(self, *stages: Stage[Any, Any], verdict: Callable[[], Any], **more: Any) -> None:
        super().__init__(*stages, **more)
        self.verdict = verdict

    @hookimpl
    def fslm_check_message(self, message: BaseModel) -> Any:
        return self.verdict()


def host_of(plugins: dict[str, object], **settings: Any) -> PluginHost:
    return PluginHost(load(files=(), **settings), plugins=plugins, installed=False)


def _fails() -> Any:
    raise LookupError("nothing")


def _exits() -> Any:
    raise SystemExit(1)


def _breaks_off() -> Any:
    yield Problem("refused", "first")
    raise LookupError("second")


@pytest.mark.parametrize(
    ("verdict", "problems"),
    [
        (lambda: None, []),
        (lambda: [], []),
        (lambda: [Problem("refused", "no", "text")], ["no"]),
        (lambda: (Problem("refused", str(i)) for i in range(2)), ["0", "1"]),
        (_fails, ["the check of a failed: LookupError"]),
        (_exits, ["the check of a failed: SystemExit"]),
        (_breaks_off, ["the check of a failed: LookupError"]),
        (lambda: "no", ["the check of a failed: TypeError"]),
        (lambda: 3, ["the check of a failed: TypeError"]),
        (lambda: True, ["the check of a failed: TypeError"]),
    ],
)
def test_a_check_refuses_or_fails_closed(verdict: Callable[[], Any], problems: list[str]) -> None:
    own = stage("a.one")
    host = host_of({"a": Checking(own, verdict=verdict)})
    found = host.check_message(own, Text(text="a"), Text(text="given"))
    assert len(found) == len(problems)
    for problem, text in zip(found, problems, strict=True):
        assert problem.text.startswith(text)
        assert problem.source == "a"


def test_a_check_judges_its_own_stages_and_others_only_where_the_settings_say_so() -> None:
    own, other, stray = stage("a.one"), stage("b.one"), stage("b.two")
    plugins = {"a": Checking(own, verdict=lambda: [Problem("refused", "no")]), "b": Plugin(other)}
    host = host_of(plugins)
    assert host.check_message(own, Text(text="a"), Text(text="given"))
    assert not host.check_message(other, Text(text="a"), Text(text="given"))
    assert not host.check_message(stray, Text(text="a"), Text(text="given"))
    assert not host.check_message(stage("a.one"), Text(text="a"), Text(text="given"))  # another stage of the same name
    assert host_of(plugins, foreign_checks=("a",)).check_message(other, Text(text="a"), Text(text="given"))


def test_a_check_is_given_the_arguments_it_names_whenever_it_was_written() -> None:
    """The first interface had stage and message; a plugin that knows no more goes on working."""
    seen: list[tuple[Any, ...]] = []

    class First(Plugin):
        @hookimpl
        def fslm_check_message(self, stage: Stage[Any, Any], message: BaseModel) -> None:
            seen.append((stage.name, message))

    class Today(Plugin):
        @hookimpl
        def fslm_check_message(self, input: BaseModel, message: BaseModel) -> None:
            seen.append((input, message))

    first, today = stage("a.one"), stage("b.one")
    host = host_of({"a": First(first), "b": Today(today)})
    for judged in (first, today):
        assert host.check_message(judged, Text(text="said"), Text(text="given")) == []
    assert seen == [("a.one", Text(text="said")), (Text(text="given"), Text(text="said"))]


def test_a_stage_that_only_a_stack_mentions_is_its_plugins_own() -> None:
    inner = stage("a.inner")
    stack = Stack("a", input=Text, output=Text, steps=[inner], bind={"text": "inner.text"})
    host = host_of({"a": Checking(stacks=(stack,), verdict=lambda: [Problem("refused", "no")])})
    assert host.stage("a.inner") is inner
    assert host.owner(inner) is not None
    assert host.check_message(inner, Text(text="a"), Text(text="given"))


def test_two_stages_of_one_name_in_one_plugin_are_refused() -> None:
    stack = Stack("a", input=Text, output=Text, steps=[stage("a.same")], bind={"text": "same.text"})
    host = host_of({"a": Plugin(stage("a.same"), stacks=(stack,))})
    (info,) = host.plugins
    assert info.state == "quarantined"
    assert "one name twice" in info.reason


def test_a_stage_whose_owner_is_not_loaded_or_not_clear_is_complained_of() -> None:
    own, free = stage("b.one"), stage("free")
    host = host_of({"a": Plugin(stage("a.one")), "b": Plugin(own)}, disable=("b",))
    assert "belongs to plugin b" in str(host.complaint(own))
    assert "disabled" in str(host.complaint(own))
    assert host.complaint(free) is None
    assert host.complaint(host.stage("a.one")) is None


def test_who_owns_what() -> None:
    one = stage("a.one")
    host = host_of({"a": Plugin(one)})
    owner = host.owner(one)
    assert owner is not None
    assert (owner.name, owner.state) == ("a", "loaded")
    assert host.owner(stage("a.one")) is None
    with pytest.raises(UnknownNameError) as caught:
        host.stage("a.onne")
    assert "'a.one'" in str(caught.value.hint)
    assert not issubclass(DuplicateNameError, UnknownNameError)


def test_observers_are_named_and_their_errors_stay_their_own() -> None:
    class Watching:
        @hookimpl
        def fslm_observe(self) -> None:
            raise ValueError("mine")

    ((name, observe),) = host_of({"w": Watching()}).observers
    assert name == "w"
    with pytest.raises(ValueError, match="mine"):
        observe(None)  # type: ignore[arg-type]


def test_hosts_share_nothing() -> None:
    one, other = host_of({"a": Plugin(stage("a.one"))}), host_of({})
    assert list(one.stages) == ["a.one"]
    assert list(other.stages) == []


def test_every_hook_is_listed() -> None:
    import fslm_core.hooks as hooks

    assert set(HOOKS) == {name for name in vars(hooks) if name.startswith("fslm_")}
    assert set(HOOKS) <= set(hooks.__all__)
