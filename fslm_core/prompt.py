"""Sandboxed Jinja to spans. One renderer serves running and training alike.

A template has a ``system`` and a ``user`` block; without blocks, all of it is the user's turn. What comes out
is not a string but spans, so that data is tokenised without special tokens and can never become control,
sensitive fields can be redacted, and the static part is known. What a template wrote itself is static; what is
not known to be static is data.

>>> t = Template("{% block user %}Order: {{ text }}{% endblock %}")
>>> [(s.text, s.field) for s in t.render({"text": "two tables"}).spans]
[('Order: ', None), ('two tables', 'text')]
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel

from .errors import PromptError

Role = Literal["system", "user"]
ROLES: tuple[Role, ...] = ("system", "user")
REDACTED = "[redacted]"
_MAX_TEXT = 10_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt.

    Attributes:
        text: the piece itself.
        role: whose turn it belongs to.
        static: True only for text the template wrote itself.
        field: the input field a data span came from, or None where it cannot be told.
    """

    text: str
    role: Role
    static: bool = True
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: spans in order, the system's turn before the user's."""

    spans: tuple[Span, ...]

    def text(self, role: Role) -> str | None:
        """Return one turn as text, or None if the template has no such turn."""
        parts = [s.text for s in self.spans if s.role == role]
        return "".join(parts) if parts else None

    @property
    def turns(self) -> list[tuple[Role, str]]:
        """The turns there are, as (role, text)."""
        return [(role, text) for role in ROLES if (text := self.text(role)) is not None]

    @property
    def static(self) -> Prompt:
        """The prompt without its data: what every run of the stage shares."""
        return Prompt(tuple(s for s in self.spans if s.static))

    def redacted(self, sensitive: Collection[str]) -> Prompt:
        """Return a copy in which data of ``sensitive`` fields, and data of unknown origin, is blanked.

        Nothing is blanked where ``sensitive`` is empty.
        """
        if not sensitive:
            return self
        hide = {s for s in self.spans if not s.static and (s.field is None or s.field in sensitive)}
        return Prompt(tuple(replace(s, text=REDACTED) if s in hide else s for s in self.spans))


class _Data(str):
    """A rendered expression; a string that remembers which field it came from."""

    field: str | None = None

    def __str__(self) -> str:
        return self


def _as_text(value: object) -> str:
    """Write a value as a prompt shows it: text as it is, an enum by its value, anything else as compact JSON."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if value is None or isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_as_text)
    return str(value)


def _mark(value: object, origin: str | None) -> _Data:
    data = _Data(_as_text(value))
    data.field = origin
    return data


class _Sandbox(ImmutableSandboxedEnvironment):
    """No loader, no globals, no way to Python internals; every expression's output is marked as data."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.globals.clear()
        self.filters["_fslm_mark"] = _mark

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"'{operator}' is for numbers only")
        if operator == "**" and abs(right) > 64:
            raise SecurityError("an exponent above 64")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        loops = {
            target.name: _root(loop.iter)
            for loop in tree.find_all(nodes.For)
            for target in ([loop.target] if isinstance(loop.target, nodes.Name) else loop.target.find_all(nodes.Name))
        }
        for output in list(tree.find_all(nodes.Output)):
            output.nodes = [
                child if isinstance(child, nodes.TemplateData) else _marked(child, loops) for child in output.nodes
            ]
        return tree


def _root(node: nodes.Node) -> str | None:
    """The one variable an expression is about, or None if it is about several or none."""
    names = {n.name for n in ([node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name))}
    return names.pop() if len(names) == 1 else None


def _marked(node: nodes.Expr, loops: Mapping[str, str | None]) -> nodes.Expr:
    origin = _root(node)
    seen: set[str] = set()
    while origin in loops and origin not in seen:
        seen.add(origin)
        origin = loops[origin]
    mark = nodes.Filter(node, "_fslm_mark", [nodes.Const(origin)], [], None, None)
    return mark.set_lineno(node.lineno)


class Template:
    """A compiled prompt template.

    Args:
        source: the template's text.
        name: what errors call it, usually a file name.

    Attributes:
        variables: the names it uses and does not set itself.
        static_texts: the pieces of text it holds itself.

    Raises:
        PromptError: it does not parse, uses include, import or extends, has a block other than
            ``system`` and ``user``, text outside its blocks, or a name that starts with an underscore.
    """

    def __init__(self, source: str, *, name: str = "<template>") -> None:
        self.source = source
        self.name = name
        environment = _Sandbox()
        try:
            tree = environment.parse(source)
            self._refuse(tree)
            self._compiled: JinjaTemplate = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise PromptError(
                f"the template does not parse: {error.message}",
                where=f"{name}, line {error.lineno}",
                hint="mend that line",
            ) from None
        except TemplateError as error:
            raise PromptError(f"the template cannot be used: {error}", where=name) from None
        self.blocks: frozenset[str] = frozenset(self._compiled.blocks)
        self.variables: frozenset[str] = frozenset(meta.find_undeclared_variables(tree))
        self.static_texts: tuple[str, ...] = tuple(data.data for data in tree.find_all(nodes.TemplateData))
        self._constants = frozenset(self.static_texts)

    def _refuse(self, tree: nodes.Template) -> None:
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise PromptError(
                f"a prompt template stands alone: {type(node).__name__.lower()} is not allowed",
                where=f"{self.name}, line {node.lineno}",
                hint="write its text into this template",
            )
        for node in tree.find_all(nodes.Getattr):
            if node.attr.startswith("_"):
                raise PromptError(
                    "the template reaches for Python internals",
                    where=f"{self.name}, line {node.lineno}",
                    found=f".{node.attr}",
                    hint="use the input's fields only",
                )
        blocks = {node.name for node in tree.find_all(nodes.Block)}
        if unknown := blocks - set(ROLES):
            raise PromptError(
                "a template has the blocks 'system' and 'user' only", where=self.name, found=", ".join(sorted(unknown))
            )
        if blocks and "user" not in blocks:
            raise PromptError(
                "the template has no 'user' block", where=self.name, hint="add {% block user %}…{% endblock %}"
            )
        if blocks:
            outside = (
                child
                for top in tree.body
                if isinstance(top, nodes.Output)
                for child in top.nodes
                if not (isinstance(child, nodes.TemplateData) and not child.data.strip())
            )
            for child in outside:
                raise PromptError(
                    "the template writes outside its blocks",
                    where=f"{self.name}, line {child.lineno}",
                    hint="move it into a block",
                )

    def render(self, values: Mapping[str, Any], *, where: str | None = None) -> Prompt:
        """Render to spans.

        Args:
            values: the variables, by name.
            where: what errors name beside the template.

        Raises:
            PromptError: an undefined name, a forbidden access, or an expression that raised.
        """
        place = f"{where}, {self.name}" if where else self.name
        spans: list[Span] = []
        try:
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
            ) from None
        except SecurityError as error:
            raise PromptError(f"the template tried what its sandbox forbids: {error}", where=place) from None
        except PromptError as error:
            error.where = place
            raise
        except Exception as error:  # an expression of the template raised; it is the author's to mend
            raise PromptError(
                f"the template could not be rendered: {type(error).__name__}: {error}", where=place
            ) from None
        return Prompt(tuple(spans))

    def _spans(self, pieces: Iterator[str], role: Role) -> list[Span]:
        spans: list[Span] = []
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > _MAX_TEXT:
                raise PromptError(f"the rendered prompt exceeds {_MAX_TEXT} characters")
            static = not isinstance(piece, _Data) and piece in self._constants
            span = Span(str.__str__(piece), role, static, getattr(piece, "field", None))
            if static and spans and spans[-1].static:
                spans[-1] = replace(spans[-1], text=spans[-1].text + span.text)
            else:
                spans.append(span)
        return _trimmed(spans)


def _trimmed(spans: list[Span]) -> list[Span]:
    """Drop the white space a block's layout puts before its first and after its last static words."""
    if spans and spans[0].static:
        spans[0] = replace(spans[0], text=spans[0].text.lstrip("\n"))
    if spans and spans[-1].static:
        spans[-1] = replace(spans[-1], text=spans[-1].text.rstrip())
    return [s for s in spans if s.text] or spans[:1]


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
        environment = _Sandbox()
        try:
            tree = ImmutableSandboxedEnvironment().parse("{% if " + source + " %}{% endif %}")
            self._compiled = environment.compile_expression(source, undefined_to_none=False)
        except TemplateError as error:
            raise PromptError(f"the expression does not parse: {error}", found=source) from None
        gets = list(tree.find_all(nodes.Getattr))
        if any(node.attr.startswith("_") for node in gets):
            raise PromptError("the expression reaches for Python internals", found=source)
        self.names = frozenset(meta.find_undeclared_variables(tree))
        self.attributes = frozenset((n.node.name, n.attr) for n in gets if isinstance(n.node, nodes.Name))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Evaluate to true or false.

        Raises:
            PromptError: it asks for what is not there, or raises.
        """
        try:
            return bool(self._compiled(**values))
        except Exception as error:  # the expression is the author's; whatever it raises is his to mend
            raise PromptError(f"the expression failed: {error}", found=self.source) from None


def variables_of(model: BaseModel) -> dict[str, Any]:
    """The names a template may use for this input: its fields and computed fields."""
    kind = type(model)
    return {name: getattr(model, name) for name in (*kind.model_fields, *kind.model_computed_fields)}


__all__ = ["REDACTED", "Expression", "Prompt", "Role", "Span", "Template", "variables_of"]
