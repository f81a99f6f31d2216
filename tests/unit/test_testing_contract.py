"""Every check of a contract fails on a plugin that is broken in just that way, and says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fslm_core.testing import installed, texts, wheel
from fslm_core.testing.broken import ContractBroken

from .testing_demo import CONTRACTS, METADATA, PLUGIN, PROMPT, install, record

pytest_plugins = ["pytester"]

Changes = Mapping[str, str | bytes | None]
NAME = "fslm_demo/__init__.py"
INFO = "fslm_demo-1.0.dist-info"
LIGHT = "importing_it"


@dataclass(frozen=True)
class Ran:
    """What a run of pytest gave: the tests that failed, and all that was printed."""

    failed: frozenset[str]
    passed: int
    text: str


Try = Callable[..., Ran]


@pytest.fixture
def attempt(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Try]:
    """Install the demo with changes and run its tests in this process."""
    site = pytester.path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file changed within a second looks the same to it
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FSLM_CACHE_DIR", str(pytester.path / "models"))  # without a tokenizer to load in every check

    def run(changes: Changes | None = None, *options: str, again: bool = False, light: bool = False) -> Ran:
        if not again:
            install(site, changes)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("fslm_demo", "fslm_other")]:
            del sys.modules[name]
        chosen = options or ("--fslm-update",)
        kept = () if light else ("-k", f"not {LIGHT}")
        marks = ("-m", "not fslm_weights")
        result = pytester.runpytest_inprocess("-rf", "-p", "no:cacheprovider", *kept, *marks, *chosen)
        failed = {line.split(" - ")[0].split("::", 1)[1] for line in result.outlines if line.startswith("FAILED ")}
        return Ran(frozenset(failed), result.parseoutcomes().get("passed", 0), result.stdout.str())

    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] in ("fslm_demo", "fslm_other")]:
        del sys.modules[name]


def test_a_whole_plugin_passes_and_writes_nothing_unasked(attempt: Try, pytester: pytest.Pytester) -> None:
    ran = attempt({}, "--fslm-update", light=True)
    assert (ran.failed, ran.passed) == (frozenset(), 37)
    assert "files written, look at them before you commit them" in ran.text
    snapshots = pytester.path / "tests/snapshots"
    names = sorted(path.name for path in snapshots.iterdir())
    assert names == ["demo.opinion.schema.json", "demo.reply.schema.json", "demo.stack.schema.json"]
    before = {path.name: path.stat().st_mtime_ns for path in snapshots.iterdir()}
    ran = attempt({}, "-q", again=True)
    assert ran.failed == frozenset() and "files written" not in ran.text
    assert {path.name: path.stat().st_mtime_ns for path in snapshots.iterdir()} == before


@dataclass(frozen=True)
class Broken:
    """A way to break the demo: what changes, which tests fail of it, and what one of them says."""

    changes: Changes
    failed: set[str]
    says: str
    light: bool = False
    options: tuple[str, ...] = field(default=("--fslm-update",))


def plugin(*changes: tuple[str, str]) -> Changes:
    text = PLUGIN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return {NAME: text}


def each(*names: str, test: str) -> set[str]:
    return {f"Test{name}::test_{test}" for name in names}


EVERY = ("Plugin", "Opinion", "Reply", "Demo")
NAMED = EVERY[1:]
RECORDS = each("Opinion", test="its_adapters_were_made_for_it")
CLEAN = each("Opinion", "Demo", test="the_check_is_clean")

WAYS = {
    "another prefix": Broken(
        {f"{INFO}/entry_points.txt": "[fslm]\nshop = fslm_demo\n"},
        each(*EVERY, test="its_plugin_loads")
        | each(*NAMED, test="its_name_carries_the_plugin_s_prefix")
        | each(*NAMED, test="the_plugin_offers_it"),
        "expected: 'shop', or a name that begins with 'shop.'",
    ),
    "not offered": Broken(
        plugin(("return [opinion, reply]", "return [reply]"), ("return [demo]", "return []")),
        each("Opinion", "Demo", test="the_plugin_offers_it"),
        "next: return it from the plugin's fslm_stages()",
    ),
    "no description": Broken(
        plugin(('description="Handle a review."', 'description=""')),
        each("Demo", test="it_has_a_description"),
        "there is no description",
    ),
    "no core version": Broken(
        {f"{INFO}/METADATA": METADATA.replace("fslm-core[torch]>=0.1", "fslm-core[torch]")},
        each(*EVERY, test="its_metadata_says_which_core_it_needs"),
        'next: write `dependencies = ["fslm-core[torch]>=0.1"]` in pyproject.toml',
    ),
    "another core": Broken(
        {f"{INFO}/METADATA": METADATA.replace(">=0.1", ">=9")},
        each(*EVERY, test="its_plugin_loads")
        | each(*NAMED, test="the_plugin_offers_it")
        | each("Opinion", "Reply", "Demo", test="the_check_is_clean"),
        "fslm-demo 1.0 needs fslm-core >=9",
    ),
    "no extra for its adapter": Broken(
        {f"{INFO}/METADATA": METADATA.replace("[torch]", "")},
        each("Opinion", test="its_metadata_says_which_core_it_needs"),
        "expected: fslm-core[torch]",
    ),
    "heavy": Broken(
        {**plugin(("here = files", "import peft\n\nhere = files")), "peft.py": ""},
        each(*EVERY, test="importing_it_loads_no_model_library"),
        "importing the plugin loads peft",
        light=True,
    ),
    "prompt not in the wheel": Broken(
        {"fslm_demo/prompt.jinja": None, "unrecorded:fslm_demo/prompt.jinja": PROMPT},
        each("Opinion", test="its_files_are_in_the_wheel"),
        "found: the installed fslm-demo 1.0 without fslm_demo/prompt.jinja",
    ),
    "another file than the wheel's": Broken(
        {"unrecorded:fslm_demo/adapter/fslm.json": record(notes="changed")},
        each("Opinion", test="its_files_are_in_the_wheel"),
        "the wheel holds another version of a file that the stage needs",
    ),
    "unknown base": Broken(
        plugin(('base="smollm2-135m"', 'base="smollm3"')),
        each("Opinion", test="its_base_is_known") | each("Opinion", test="its_adapters_are_whole") | RECORDS | CLEAN,
        "there is no checkpoint named 'smollm3'",
    ),
    "another adapter than promised": Broken(
        plugin(('adapter=here / "adapter"', f'adapter=here / "adapter", sha256="{"0" * 64}"')),
        each("Opinion", test="its_adapters_are_whole") | RECORDS | CLEAN,
        "the adapter's weights are not the ones promised",
    ),
    "an adapter cut short": Broken(
        {"fslm_demo/adapter/adapter_model.safetensors": b"12345678"},
        each("Opinion", test="its_adapters_are_whole") | RECORDS | CLEAN,
        "the weights file is cut short or not safetensors",
    ),
    "an adapter of another base": Broken(
        {"fslm_demo/adapter/fslm.json": record(base="other")},
        RECORDS | CLEAN,
        "the adapter was made for the base other",
    ),
    "an adapter of another output": Broken(
        {"fslm_demo/adapter/fslm.json": record(output_schema="0")},
        RECORDS | CLEAN,
        "the output schema of Opinion changed since the adapter was trained",
    ),
    "an adapter of another input": Broken(
        {"fslm_demo/adapter/fslm.json": record(input_schema="0")},
        RECORDS | CLEAN,
        "the input schema of Review changed since the adapter was trained",
    ),
    "another template": Broken(
        {"fslm_demo/prompt.jinja": PROMPT.replace("opinion", "view")},
        RECORDS | CLEAN,
        "the prompt template changed since the adapter was trained",
    ),
    "a template that fails": Broken(
        {
            "fslm_demo/prompt.jinja": "{% block user %}{{ text[:7] * (8 // (9 - text[:9]|length)) }}{% endblock %}",
            "fslm_demo/adapter/fslm.json": None,
            "tests/test_contracts.py": CONTRACTS.replace("max_examples = 10", "warnings = ('no fslm.json',)").replace(
                "class TestDemo(StackContract):", "class TestDemo(StackContract):\n    warnings = ('no fslm.json',)"
            ),
        },
        each("Opinion", test="its_template_renders_for_every_input"),
        "the template fails on an input",
    ),
    "an output without a bound": Broken(
        {
            **plugin(('    sentiment: Literal["good", "bad"]\n    stars', "    why: str\n    stars")),
            "tests/test_contracts.py": CONTRACTS.partition("class TestReply")[0],
        },
        each("Opinion", test="the_check_is_clean")
        | each("Opinion", test="its_schema_compiles_to_a_grammar")
        | each("Opinion", test="its_canonical_text_comes_back")
        | RECORDS,
        "the string has no bound",
    ),
    "a text that is not read back": Broken(
        plugin(
            ("from pydantic import BaseModel, Field", "from pydantic import BaseModel, Field, field_validator"),
            (
                "    stars: Annotated[int, Field(ge=1, le=5)]\n",
                "    stars: Annotated[int, Field(ge=1, le=5)]\n\n"
                "    @field_validator('stars')\n    def _more(cls, stars):\n        return min(5, stars + 1)\n",
            ),
        ),
        each("Opinion", test="its_canonical_text_comes_back"),
        "the canonical text is not read back as what was written",
    ),
    "a check that warns": Broken(
        plugin(('description="What a', 'decoding=Decoding(max_tokens=3),\n    description="What a')),
        CLEAN,
        "warnings = ('an\\\\ output\\\\ longer",
    ),
    "a tool without a version": Broken(
        plugin(('version="1"', 'version=""')), each("Reply", test="the_tool_has_a_version"), "the tool has no version"
    ),
    "a tool that no worker finds": Broken(
        plugin(
            ('@tool("demo.reply", version="1", pure=True)\ndef reply(', "def _reply("),
            ("\n\ndemo = Stack", '\n\nreply = tool("demo.reply", version="1", timeout=5)(_reply)\ndemo = Stack'),
        ),
        each("Reply", test="a_worker_process_finds_the_tool") | each("Reply", "Demo", test="the_check_is_clean"),
        "found: fslm_demo._reply is function",
    ),
    "a tool that is not pure": Broken(
        plugin(
            ("from typing import", "import itertools\nfrom typing import"),
            ("here = files(__name__)", "here = files(__name__)\nturn = itertools.count()"),
            ('reply="We are sorry."', 'reply=f"We are sorry {next(turn)}."'),
            ('message.sentiment == "bad"', "True"),
        ),
        each("Reply", test="a_pure_tool_gives_one_answer"),
        "the tool is said to be pure, but gives two answers for one input",
    ),
    "no snapshot": Broken(
        {},
        each(*NAMED, test="its_schemas_have_not_changed"),
        "next: write it with `python -m pytest tests/test_contracts.py --fslm-update`, and commit it",
        options=("-q",),
    ),
    "the wrong contract": Broken(
        {
            "tests/test_contracts.py": CONTRACTS.replace(
                "TestOpinion(StageContract)", "TestOpinion(ToolContract)"
            ).partition("class TestReply")[0]
        },
        set(),
        "has a model: inherit StageContract",
    ),
    "a fixture that returns something else": Broken(
        {"tests/test_contracts.py": CONTRACTS.replace("return fslm_demo.demo", "return fslm_demo.opinion")},
        set(),
        "the fixture returned Stage, and a Stack was expected",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_plugin_broken_in_one_way_fails_the_check_of_it(attempt: Try, way: str) -> None:
    broken = WAYS[way]
    ran = attempt(broken.changes, *broken.options, light=broken.light)
    assert broken.says in ran.text and "Traceback" not in ran.text and "During handling" not in ran.text
    assert ran.failed == broken.failed, ran.text


def test_a_schema_that_changed_unannounced_is_shown(attempt: Try, pytester: pytest.Pytester) -> None:
    attempt({}, "--fslm-update")
    changed = plugin(("max_length=40", "max_length=41"))
    (pytester.path / "site" / NAME).write_text(str(changed[NAME]), encoding="utf-8")
    ran = attempt(None, "-q", again=True)
    assert ran.failed == each("Reply", test="its_schemas_have_not_changed")
    assert 'the schema of demo.reply changed\n  -        "maxLength": 40\n  +        "maxLength": 41' in ran.text
    assert "pytest tests/test_contracts.py --fslm-update" in ran.text
    ran = attempt(None, "--fslm-update", again=True)
    assert ran.failed == frozenset() and "demo.reply.schema.json: changed" in ran.text


def test_a_plugin_that_is_not_installed_is_told_how(attempt: Try, pytester: pytest.Pytester) -> None:
    gone = dict.fromkeys((f"{INFO}/METADATA", f"{INFO}/entry_points.txt"))
    ran = attempt({**gone, f"unrecorded:{INFO}/RECORD": None}, "-q")
    assert "no installed plugin has the name demo.opinion" in ran.text
    assert "python -m pip install -e ." in ran.text


def test_warnings_that_are_meant_may_stay(attempt: Try) -> None:
    untuned = {
        **plugin((', adapter=here / "adapter"', "")),
        "tests/test_contracts.py": CONTRACTS.replace(
            "    @pytest.fixture", "    warnings = ('untuned',)\n\n    @pytest.fixture"
        ),
    }
    assert attempt(untuned).failed == frozenset()


def test_a_stack_may_hold_a_stage_of_another_plugin(attempt: Try) -> None:
    other = """
from typing import Literal
from pydantic import BaseModel
from fslm_core import hookimpl, tool

class Said(BaseModel):
    sentiment: Literal["good", "bad"]

class Reply(BaseModel):
    reply: str

@tool("other.reply", version="1")
def loud(message: Said) -> Reply:
    return Reply(reply=message.sentiment.upper())

@hookimpl
def fslm_stages():
    return [loud]
"""
    changes = {
        **plugin(
            ("here = files", "from fslm_other import loud\n\nhere = files"),
            ("[opinion, reply], desc", "[opinion, loud], desc"),
        ),
        "fslm_other.py": other,
        "fslm_other-1.0.dist-info/METADATA": METADATA.replace("demo", "other"),
        "fslm_other-1.0.dist-info/entry_points.txt": "[fslm]\nother = fslm_other\n",
        "tests/test_name.py": """
from fslm_core.testing import run_stack

def test_by_name():
    said = {"opinion": {"sentiment": "bad", "stars": 1}}
    assert run_stack("demo", {"text": "x"}, replies=said).output.reply == "BAD"
""",
        "tests/cases/demo.yml": """
stack: demo
cases:
  - name: loud
    input: {text: x}
    reply: {opinion: {sentiment: bad, stars: 1}}
    expect: {message: {sentiment: bad, reply: BAD}}
""",
    }
    ran = attempt(changes)
    assert (ran.failed, ran.passed) == (frozenset(), 35), ran.text


def test_a_stack_may_hold_shapes(attempt: Try) -> None:
    nested = """\
judged = Stack("demo.judged", input=Review, output=Opinion, steps=[opinion])
route = Route(
    "demo.handling",
    router=Step(judged, name="judged"),
    by="judged.sentiment",
    cases={"bad": reply},
    default=Step(reply, name="praise"),
    input=Review,
    output=Handled,
)
demo = Stack("demo", input=Review, output=Handled, steps=[route], description="Handle a review.")"""
    flat = 'demo = Stack("demo", input=Review, output=Handled, steps=[opinion, reply], description="Handle a review.")'
    ran = attempt(plugin((flat, nested), ("import SLM, Decoding, ", "import SLM, Decoding, Route, ")))
    assert ran.failed == frozenset()
    ran = attempt(
        plugin((flat, nested.replace('"bad": reply', '"worse": reply')), ("SLM, Decoding, ", "SLM, Decoding, Route, "))
    )
    assert "TestDemo::test_the_check_is_clean" in ran.failed
    assert "case 'worse' can never come" in ran.text


def test_a_base_may_be_another_plugin_s(attempt: Try) -> None:
    other = """
from pathlib import Path
from fslm_core import Checkpoint, Folder, hookimpl

@hookimpl
def fslm_checkpoints():
    return [Checkpoint("other.base", Folder(Path("nowhere")))]
"""
    changes = {
        **plugin(('"smollm2-135m", adapter=here / "adapter"', '"other.base"')),
        "fslm_other.py": other,
        "fslm_other-1.0.dist-info/METADATA": METADATA.replace("demo", "other"),
        "fslm_other-1.0.dist-info/entry_points.txt": "[fslm]\nother = fslm_other\n",
        "tests/test_contracts.py": CONTRACTS.replace(
            "    @pytest.fixture", "    warnings = ('untuned',)\n\n    @pytest.fixture"
        ),
    }
    assert attempt(changes).failed == frozenset()


def test_a_wheel_is_built_for_an_editable_install(attempt: Try, pytester: pytest.Pytester, tmp_path: Path) -> None:
    """The wheel of the project leaves out what .gitignore names, and the contract says so."""
    site = pytester.path / "site"
    (site / "pyproject.toml").parent.mkdir(exist_ok=True)
    (site / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "fslm-demo"\nversion = "1.0"\n[tool.hatch.build.targets.wheel]\npackages = ["fslm_demo"]\n',
        encoding="utf-8",
    )
    direct = '{"url": "' + site.as_uri() + '", "dir_info": {"editable": true}}'
    ran = attempt({f"{INFO}/direct_url.json": direct})
    assert ran.failed == frozenset()
    (site / ".gitignore").write_text("*.safetensors\n", encoding="utf-8")
    wheel._built.cache_clear()
    ran = attempt(None, "-q", again=True)
    assert ran.failed == each("Opinion", test="its_files_are_in_the_wheel")
    assert "the wheel built from site without fslm_demo/adapter/adapter_model.safetensors" in ran.text


@pytest.mark.parametrize(
    ("find", "says"),
    [
        (lambda: installed.named("fslm-nowhere"), "fslm-nowhere: the distribution is not installed"),
        (lambda: installed.named("pytest"), "pytest: the distribution has no entry point in group 'fslm'"),
        (lambda: installed.for_module("fslm_nowhere"), "fslm_nowhere: no entry point names this plugin"),
    ],
    ids=["not installed", "no plugin", "no entry point"],
)
def test_what_is_no_plugin_is_told(find: Callable[[], object], says: str) -> None:
    with pytest.raises(ContractBroken) as caught:
        find()
    assert str(caught.value).startswith(says) and "python -m pip install -e ." in str(caught.value)


def test_validators_that_refuse_nearly_everything_are_told() -> None:
    with pytest.raises(ContractBroken, match=r"too few values can be made up(.|\n)*inputs = st\.builds"):
        texts.for_every(st.integers(0, 10**9).filter(lambda n: n % 10**6 == 7), lambda n: None, 20)
