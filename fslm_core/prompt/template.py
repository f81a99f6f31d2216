"""Templates and expressions: compiled once, checked as they are, rendered in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateAssertionError, TemplateSyntaxError, UndefinedError
from pydantic import BaseModel

from ..errors import PromptError, shorten
from .sandbox import FILTERS, MAX_TEXT, Data, Sandbox, budgeted, undeclared
from .spans import ROLES, Prompt, Role, Span

_ALIEN = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Macro,
    nodes.CallBlock,
    nodes.FilterBlock,
    nodes.ScopedEvalContextModifier,
    nodes.EvalContextModifier,
)
"""What a prompt has no need of, and what would hide what is static, or have no bound."""


_TOO_MUCH = (TemplateError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)
"""What Jinja, and Python under it, raise of a source: too deep, too many loops in loops, a number too long, no text."""


def _reason(error: BaseException) -> str:
    return (error.msg if isinstance(error, SyntaxError) else str(error)) or type(error).__name__


class Template:
    """A compiled prompt template.

    Args:
        source: the template's text.
        name: what errors call it, usually a file name.

    Attributes:
        variables: the names it uses and does not set itself.
        static_texts: the pieces of text it holds itself.

    Raises:
        PromptError: it does not parse; uses include, import, extends, macro, call, filter blocks, autoescape or an
            unknown filter; has a block other than ``system`` and ``user``, anything outside its blocks, or a name
            that starts with an underscore.
    """

    def __init__(self, source: str, *, name: str = "<template>") -> None:
        self.source = source
        self.name = name
        environment = Sandbox()
        try:
            tree = environment.parse(source)
            self._refuse(tree)
            self._compiled: JinjaTemplate = environment.from_string(source)
            self.variables: frozenset[str] = undeclared(tree)
        except TemplateAssertionError as error:
            raise PromptError(
                f"the template uses what is not there: {error.message}",
                where=f"{name}, line {error.lineno}",
                expected="one of the filters " + ", ".join(sorted(FILTERS)) if "filter" in str(error) else None,
                hint="write that line with what there is",
            ) from None
        except TemplateSyntaxError as error:
            raise PromptError(
                f"the template does not parse: {error.message}",
                where=f"{name}, line {error.lineno}",
                hint="mend that line",
            ) from None
        except _TOO_MUCH as error:
            what = f"the template cannot be used: {shorten(_reason(error))}"
            raise PromptError(what, where=name, hint="write it simpler") from None
        self.blocks: frozenset[str] = frozenset(self._compiled.blocks)
        self.static_texts: tuple[str, ...] = tuple(data.data for data in tree.find_all(nodes.TemplateData))
        self._constants = frozenset(self.static_texts)

    def _refuse(self, tree: nodes.Template) -> None:
        for alien in tree.find_all(_ALIEN):
            self._refused(f"a prompt template stands alone: {_tag(alien)} is not allowed", alien, "write it out")
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                self._refused("a prompt template stands alone: a recursive loop is not allowed", loop, "write it out")
        hint = "use the input's fields only"
        for get in tree.find_all(nodes.Getattr):
            if get.attr.startswith("_"):
                self._refused("the template reaches for Python internals", get, hint, f".{get.attr}")
        for use in tree.find_all(nodes.Name):
            if use.name.startswith("_") or use.name == "self":
                self._refused("the template reaches for Python internals", use, hint, use.name)
        self._refuse_layout(tree)

    def _refuse_layout(self, tree: nodes.Template) -> None:
        blocks = list(tree.find_all(nodes.Block))
        names = {block.name for block in blocks}
        if unknown := names - set(ROLES):
            raise PromptError(
                "a template has the blocks 'system' and 'user' only",
                where=self.name,
                found=", ".join(sorted(unknown)),
                hint="write its text into one of the two",
            )
        if not blocks:
            return
        if "user" not in names:
            raise PromptError(
                "the template has no 'user' block", where=self.name, hint="add {% block user %}…{% endblock %}"
            )
        for top in tree.body:
            parts = top.nodes if isinstance(top, nodes.Output) else [] if isinstance(top, nodes.Block) else [top]
            for part in parts:
                if not (isinstance(part, nodes.TemplateData) and not part.data.strip()):
                    self._refused("the template writes outside its blocks", part, "move it into a block")
        for block in blocks:
            for inner in block.find_all(nodes.Block):
                self._refused("a block stands within another", inner, "end the first before the second begins")

    def _refused(self, what: str, node: nodes.Node, hint: str, found: str | None = None) -> None:
        raise PromptError(what, where=f"{self.name}, line {node.lineno}", found=found, hint=hint)

    def render(self, values: Mapping[str, Any], *, where: str | None = None) -> Prompt:
        """Render to spans.

        Args:
            values: the variables, by name.
            where: what errors name beside the template.

        Raises:
            PromptError: an undefined name, a forbidden access, more work than a prompt needs, or an expression that
                raised.
        """
        place = f"{where}, {self.name}" if where else self.name
        spans: list[Span] = []
        try:
            with budgeted():
                context = self._compiled.new_context(dict(values))
                if not self.blocks:
                    spans += self._spans(self._compiled.root_render_func(context), "user")
                for role in ROLES:
                    if role in self.blocks:
                        spans += self._spans(self._compiled.blocks[role](context), role)
        except UndefinedError as error:
            raise PromptError(
                f"the template uses a name that is not there: {error.message}",
                where=place,
                expected="one of " + ", ".join(sorted(values)),
                hint="correct the name, or add the field to the stage's input model",
            ) from None
        except SecurityError as error:
            raise PromptError(
                f"the template tried what its sandbox forbids: {error}",
                where=place,
                hint="prepare it in a tool step before, and give the template the result",
            ) from None
        except PromptError as error:
            error.where = place
            raise
        except Exception as error:  # an expression of the template raised; it is the author's to mend
            what = shorten(f"{type(error).__name__}: {error}")
            raise PromptError(
                f"the template could not be rendered: {what}",
                where=place,
                hint="guard the expression, as in {% if name %}…{% endif %}",
            ) from None
        return Prompt(tuple(spans))

    def _spans(self, pieces: Iterator[str], role: Role) -> list[Span]:
        spans: list[Span] = []
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > MAX_TEXT:
                raise PromptError(
                    f"the rendered prompt exceeds {MAX_TEXT} characters",
                    where=self.name,
                    hint="bound the fields it shows with max_length, or shorten them: {{ text[:2000] }}",
                )
            static = not isinstance(piece, Data) and piece in self._constants
            spans.append(Span(str.__str__(piece), role, static, getattr(piece, "field", None)))
        return _trimmed(list(_merged(spans)))


def _merged(spans: list[Span]) -> Iterator[Span]:
    """The spans, static ones that follow each other as one."""
    for static, together in groupby(spans, key=lambda span: span.static):
        run = list(together)
        if static:
            yield replace(run[0], text="".join(span.text for span in run))
        else:
            yield from run


def _trimmed(spans: list[Span]) -> list[Span]:
    """Drop the white space a block's layout puts before its first and after its last static words."""
    if spans and spans[0].static:
        spans[0] = replace(spans[0], text=spans[0].text.lstrip("\n"))
    if spans and spans[-1].static:
        spans[-1] = replace(spans[-1], text=spans[-1].text.rstrip())
    return [s for s in spans if s.text] or spans[:1]


def _tag(node: nodes.Node) -> str:
    return type(node).__name__.lower().removesuffix("block").replace("scopedevalcontextmodifier", "autoescape")


class Expression:
    """A sandboxed Jinja expression, as in ``Step(when="category.category != 'OTHER'")``.

    Attributes:
        names: the variables it asks for.
        attributes: (variable, attribute) wherever it asks for an attribute of one.

    Raises:
        PromptError: it does not parse or reaches for Python internals.

    >>> e = Expression("a.b > 1")
    >>> e.holds({"a": {"b": 2}}), sorted(e.names), e.attributes
    (True, ['a'], frozenset({('a', 'b')}))
    """

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            self._compiled = Sandbox().compile_expression(source, undefined_to_none=False)
            tree = Sandbox().parse("{% if (" + source + ") %}{% endif %}")
            gets = list(tree.find_all(nodes.Getattr))
            items = [n for n in tree.find_all(nodes.Getitem) if isinstance(n.arg, nodes.Const)]
            named = [n.name for n in tree.find_all(nodes.Name)] + [n.attr for n in gets]
            self.names = undeclared(tree)
        except _TOO_MUCH as error:
            raise PromptError(
                f"the expression does not parse: {shorten(_reason(error))}",
                where="when",
                found=source,
                hint="write a Jinja expression, as in \"category.label != 'OTHER'\"",
            ) from None
        if any(name.startswith("_") for name in named):
            raise PromptError(
                "the expression reaches for Python internals",
                where="when",
                found=source,
                hint="use names without an underscore at their front",
            )
        reached = [(n.node, n.attr) for n in gets] + [(n.node, n.arg.value) for n in items]  # type: ignore[attr-defined]
        self.attributes = frozenset((node.name, str(attr)) for node, attr in reached if isinstance(node, nodes.Name))

    def holds(self, values: Mapping[str, Any], where: str = "when") -> bool:
        """Evaluate to true or false.

        Args:
            where: the place that errors name.

        Raises:
            PromptError: it asks for what is not there, or raises.
        """
        return bool(self._evaluated(values, bool, where))

    def value(self, values: Mapping[str, Any], where: str = "by") -> Any:
        """Evaluate to JSON data.

        Args:
            where: the place that errors name.

        Raises:
            PromptError: it asks for what is not there, raises, or gives something else.
        """
        return self._evaluated(values, lambda found: json.loads(json.dumps(found)), where)

    def _evaluated(self, values: Mapping[str, Any], read: Callable[[Any], Any], where: str) -> Any:
        try:
            with budgeted():
                return read(self._compiled(values))
        except Exception as error:  # the expression is the author's; whatever it raises is his to mend
            raise PromptError(
                f"the expression failed: {shorten(str(error))}",
                where=where,
                found=self.source,
                hint='guard it, as in "a is not none and a.b > 1"',
            ) from None


def variables_of(model: BaseModel) -> dict[str, Any]:
    """The names a template may use for this input: its fields and computed fields."""
    kind = type(model)
    return {name: getattr(model, name) for name in (*kind.model_fields, *kind.model_computed_fields)}


__all__ = ["Expression", "Template", "variables_of"]
