"""What the framework relies on, as test classes that an author inherits with one fixture.

::

    class TestIntent(StageContract):
        @pytest.fixture
        def stage(self) -> Stage[Any, Any]:
            return intent

The pytest plugin ``fslm_core.testing.plugin`` must be there, and the stage's plugin installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis.strategies import SearchStrategy

from ..plugins import PluginHost
from ..stack import Stack
from ..stage import Stage
from . import golden, installed, models, snapshots, texts, wheel
from .broken import ContractBroken, told
from .cases import read_cases
from .clean import clean_settings
from .engine import alone
from .installed import Installed
from .owners import host_for, names_of
from .strategies import instances

F = TypeVar("F", bound=Callable[..., None])
_FOUND = pytest.StashKey[dict[object, Installed]]()


def needs_weights(test: F) -> F:
    """Have the pytest plugin mark a test ``fslm_weights``: the marker is not known before that plugin is there."""
    test.fslm_weights = True  # type: ignore[attr-defined]
    return test


class _Contract:
    """What holds for every plugin, whatever it offers.

    Attributes:
        distribution: the name of the plugin's distribution, where the stage's name does not tell it.
        max_examples: how many made-up values a check tries.
        warnings: regular expressions of the check's warnings that are meant.
    """

    distribution: ClassVar[str | None] = None
    max_examples: ClassVar[int] = 50
    warnings: ClassVar[Sequence[str]] = ()

    @pytest.fixture
    def fslm_installed(self) -> Installed:
        """The distribution that is tested."""
        raise NotImplementedError

    @pytest.fixture
    def fslm_carries_adapter(self) -> bool:
        """Whether what is tested cannot run without the extra ``torch``."""
        return False

    def test_its_plugin_loads(self, fslm_installed: Installed) -> None:
        """On its own, without being quarantined."""
        with told():
            installed.check_loaded(fslm_installed)

    def test_its_metadata_says_which_core_it_needs(self, fslm_installed: Installed, fslm_carries_adapter: bool) -> None:
        """As a range of versions; with the extra ``torch`` where there is an adapter."""
        with told():
            installed.check_requirement(fslm_installed, carries_adapter=fslm_carries_adapter)

    def test_importing_it_loads_no_model_library(self, fslm_installed: Installed) -> None:
        """``fslm --help`` imports every plugin."""
        with told():
            installed.check_light(fslm_installed)


class PluginContract(_Contract):
    """What holds for a plugin as a whole: for one that offers no stage, or to be asked once. Fixture: ``plugin``."""

    @pytest.fixture
    def plugin(self) -> ModuleType | str:
        """The module that the entry point names; or the name of the plugin or its distribution."""
        raise NotImplementedError("define the fixture `plugin`: it returns the plugin's module")

    @pytest.fixture
    def fslm_installed(self, plugin: ModuleType | str, request: pytest.FixtureRequest) -> Installed:
        """The distribution that is tested."""
        named = self.distribution
        return _once(request, plugin, lambda: installed.named(named) if named else installed.for_module(plugin))


class _Named(_Contract):
    """What holds for whatever has a name and a place in a plugin: stages and stacks."""

    @pytest.fixture
    def fslm_subject(self) -> Stage[Any, Any] | Stack[Any, Any]:
        """What is tested."""
        raise NotImplementedError

    @pytest.fixture
    def fslm_installed(
        self, fslm_subject: Stage[Any, Any] | Stack[Any, Any], request: pytest.FixtureRequest
    ) -> Installed:
        """The distribution that is tested."""
        return _once(request, fslm_subject, lambda: installed.installed_for(fslm_subject, self.distribution))

    def test_its_name_carries_the_plugin_s_prefix(
        self, fslm_subject: Stage[Any, Any] | Stack[Any, Any], fslm_installed: Installed
    ) -> None:
        """The entry point's name, or that and a dot first."""
        with told():
            installed.check_prefix(fslm_subject, fslm_installed)

    def test_the_plugin_offers_it(
        self, fslm_subject: Stage[Any, Any] | Stack[Any, Any], fslm_installed: Installed
    ) -> None:
        """This very object, from its hook."""
        with told():
            installed.check_offered(fslm_subject, fslm_installed)

    def test_it_has_a_description(self, fslm_subject: Stage[Any, Any] | Stack[Any, Any]) -> None:
        """One sentence, for whoever reads ``fslm list``."""
        with told():
            if not fslm_subject.description.strip():
                raise ContractBroken(
                    "there is no description",
                    where=repr(fslm_subject),
                    hint="write description=… (a tool's is the first line of its docstring)",
                )

    def test_its_schemas_have_not_changed(
        self,
        fslm_subject: Stage[Any, Any] | Stack[Any, Any],
        fslm_kept: snapshots.Kept,
        request: pytest.FixtureRequest,
    ) -> None:
        """Not unannounced: whoever uses it, and every adapter, depends on them."""
        with told():
            fslm_kept.check(
                snapshots.schema_path(request.path.parent, fslm_subject),
                snapshots.schema_text(fslm_subject),
                what=f"the schema of {fslm_subject.name}",
                hint="raise the plugin's version, tell its users, train again where the output changed",
            )

    def test_the_check_is_clean(self, fslm_subject: Stage[Any, Any] | Stack[Any, Any]) -> None:
        """``fslm check`` finds no error, and no warning but those in ``warnings``."""
        with told():
            stack = fslm_subject if isinstance(fslm_subject, Stack) else alone(fslm_subject)
            models.check_clean(stack, _host(stack), self.warnings)


class StackContract(_Named):
    """What the framework relies on in a stack. Fixture: ``stack``. Its stages have contracts of their own."""

    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        """The stack that is tested."""
        raise NotImplementedError("define the fixture `stack`: it returns the stack that is tested")

    @pytest.fixture
    def fslm_subject(self, stack: Stack[Any, Any]) -> Stack[Any, Any]:
        """What is tested."""
        _refuse_other(stack, Stack, "a Stack")
        return stack


class _AnyStage(_Named):
    """What holds for every stage.

    Attributes:
        inputs: a strategy of input instances, in place of what its model allows.
        outputs: a strategy of output instances, likewise.
    """

    inputs: ClassVar[SearchStrategy[Any] | None] = None
    outputs: ClassVar[SearchStrategy[Any] | None] = None

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        """The stage that is tested."""
        raise NotImplementedError("define the fixture `stage`: it returns the stage that is tested")


class ToolContract(_AnyStage):
    """What the framework relies on in a tool stage. Fixture: ``stage``."""

    @pytest.fixture
    def fslm_subject(self, stage: Stage[Any, Any]) -> Stage[Any, Any]:
        """What is tested."""
        if isinstance(stage, Stage) and stage.tool is None:
            pytest.fail(f"{stage!r} has a model: inherit StageContract", pytrace=False)
        _refuse_other(stage, Stage, "a Stage")
        return stage

    def test_the_tool_has_a_version(self, fslm_subject: Stage[Any, Any]) -> None:
        """By which caches and traces tell its results apart."""
        with told():
            texts.check_version(fslm_subject)

    def test_a_worker_process_finds_the_tool(self, fslm_subject: Stage[Any, Any]) -> None:
        """By the function's name, where it has a timeout or is to be isolated."""
        with told():
            texts.check_importable(fslm_subject)

    def test_a_pure_tool_gives_one_answer(self, fslm_subject: Stage[Any, Any]) -> None:
        """For one input, however often it is asked."""
        with told():
            inputs = self.inputs if self.inputs is not None else instances(fslm_subject.input)
            texts.check_pure(fslm_subject, alone(fslm_subject), inputs, self.max_examples)


class StageContract(_AnyStage):
    """What the framework relies on in a stage with a model. Fixture: ``stage``.

    Attributes:
        examples: (input, output) pairs whose token ids are kept; the stage's cases that expect a message by default.
    """

    examples: ClassVar[Sequence[golden.Example] | None] = None

    @pytest.fixture
    def fslm_subject(self, stage: Stage[Any, Any]) -> Stage[Any, Any]:
        """What is tested."""
        if isinstance(stage, Stage) and stage.tool is not None:
            pytest.fail(f"{stage!r} is a tool: inherit ToolContract", pytrace=False)
        _refuse_other(stage, Stage, "a Stage")
        return stage

    @pytest.fixture
    def fslm_carries_adapter(self, fslm_subject: Stage[Any, Any]) -> bool:
        """Whether the stage's own model or a variant has an adapter."""
        return any(model.adapter is not None for model in wheel.models_of(fslm_subject))

    def test_its_files_are_in_the_wheel(self, fslm_subject: Stage[Any, Any], fslm_installed: Installed) -> None:
        """The prompt and the adapters, byte for byte."""
        with told():
            wheel.check_shipped(fslm_subject, fslm_installed)

    def test_its_base_is_known(self, fslm_subject: Stage[Any, Any]) -> None:
        """To fslm, to the plugin, or as a pinned name of the Hub."""
        with told():
            models.check_bases(fslm_subject, _host(fslm_subject))

    def test_its_adapters_are_whole(self, fslm_subject: Stage[Any, Any]) -> None:
        """And have the hash that is promised."""
        with told():
            models.check_adapters(fslm_subject, _host(fslm_subject))

    def test_its_adapters_were_made_for_it(self, fslm_subject: Stage[Any, Any]) -> None:
        """For its base, its template and its schemas, as ``fslm.json`` says."""
        with told():
            models.check_records(fslm_subject, _host(fslm_subject), self.warnings)

    def test_its_template_renders_for_every_input(self, fslm_subject: Stage[Any, Any]) -> None:
        """That its input model allows."""
        with told():
            inputs = self.inputs if self.inputs is not None else instances(fslm_subject.input)
            texts.check_template(fslm_subject, inputs, self.max_examples)

    def test_its_schema_compiles_to_a_grammar(self, fslm_subject: Stage[Any, Any]) -> None:
        """Bounded, and known to llguidance where that is installed."""
        with told():
            texts.check_grammar(fslm_subject)

    def test_its_canonical_text_comes_back(self, fslm_subject: Stage[Any, Any]) -> None:
        """As the same output, and the grammar can write it."""
        with told():
            texts.check_grammar(fslm_subject)
            outputs = self.outputs if self.outputs is not None else instances(fslm_subject.output)
            texts.check_round_trip(fslm_subject, outputs, self.max_examples)

    @needs_weights
    def test_training_and_serving_see_the_same_tokens(
        self,
        fslm_subject: Stage[Any, Any],
        fslm_kept: snapshots.Kept,
        request: pytest.FixtureRequest,
        tmp_path: Path,
    ) -> None:
        """And those that were kept, so that an upgrade cannot change them in silence."""
        folder = request.path.parent
        with told():
            examples = self.examples if self.examples is not None else list(_from_cases(folder, fslm_subject.name))
            text = golden.golden_text(fslm_subject, examples, _host(fslm_subject), clean_settings(tmp_path))
            fslm_kept.check(
                golden.golden_path(folder, fslm_subject),
                text,
                what=f"the token ids of {fslm_subject.name}",
                hint="train the adapter again with the new prompt or tokenizer",
            )


def _once(request: pytest.FixtureRequest, thing: object, find: Callable[[], Installed]) -> Installed:
    """What was found for ``thing``, looked for once a session; things of one distribution share what was found."""
    known = request.config.stash.setdefault(_FOUND, {})
    if thing not in known:
        with told():
            found = find()
            known[thing] = known.setdefault(found.name, found)
    return known[thing]


def _host(thing: Stage[Any, Any] | Stack[Any, Any]) -> PluginHost:
    """The plugins that have a part in it: its own, and those of the stages and checkpoints it uses."""
    return host_for(names_of(thing), clean_settings(Path("data")))


def _refuse_other(thing: object, kind: type, expected: str) -> None:
    if not isinstance(thing, kind):
        pytest.fail(f"the fixture returned {type(thing).__name__}, and {expected} was expected", pytrace=False)


def _from_cases(folder: Path, stage: str) -> Iterator[golden.Example]:
    """The examples in the stage's files of cases: what they give, and the message they expect."""
    for path in sorted(folder.glob("cases/*.y*ml")):
        for case in read_cases(path):
            if (case.kind, case.target) == ("stage", stage) and "message" in case.expect:
                yield case.input, case.expect["message"]


__all__ = ["PluginContract", "StackContract", "StageContract", "ToolContract"]
