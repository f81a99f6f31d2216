"""The sandbox templates run in: no way to Python internals, no way to spend unbounded time or memory.

Jinja's own sandbox keeps templates from the interpreter. Beyond that, this one knows a short list of filters and
methods, all of them linear in what they are given, and counts what a rendering handles against a budget.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, cast

from jinja2 import Environment, StrictUndefined, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.meta import TrackingCodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from pydantic import BaseModel

MAX_TEXT = 10_000_000
"""Characters of a rendered prompt."""
_MAX_HANDLED = 20_000_000
"""Characters and items that expressions of one rendering may handle altogether."""
_VALUE = 200
"""What one value costs besides, in characters."""
_HELD = 40
"""What a value costs that another holds."""
_CHARACTER = 20
"""What a character costs that becomes a value of its own."""
_MAX_LOOPS = 100_000
"""Passages through loops in one rendering."""
_MAX_BITS = 4096
"""Of an integer that arithmetic makes."""
_MAX_INDENT = 8
"""Blanks that ``tojson(indent=…)`` may put before a line, for each level."""
_ITEMS = frozenset({"list", "sort", "split", "rsplit", "splitlines"})
"""Filters and methods that make many values out of one text; each costs what a value costs."""

_FILTERS = (
    "abs capitalize count d default dictsort first float int items join last length list lower map max min reject"
    " rejectattr replace reverse select selectattr sort string sum title tojson trim truncate unique upper wordcount"
)
_METHODS = (
    "capitalize casefold count endswith find get isalnum isalpha isdecimal isdigit islower isspace istitle isupper"
    " items keys lower lstrip removeprefix removesuffix rstrip split splitlines startswith strip title upper values"
)
FILTERS = frozenset(_FILTERS.split())
METHODS = frozenset(_METHODS.split())
"""Of strings and dicts."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.loops = _MAX_LOOPS
        self.handled = _MAX_HANDLED


_budget: ContextVar[Budget | None] = ContextVar("fslm_prompt_budget", default=None)


@contextmanager
def budgeted() -> Iterator[None]:
    """Count what is rendered within against a fresh budget."""
    token = _budget.set(Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _spend(*values: object) -> None:
    """Charge for values and all that they hold: what a list holds twice is charged, as it would be written, twice."""
    budget = _budget.get()
    if budget is None:
        return
    left = budget.handled - _VALUE * len(values)
    waiting: list[Any] = list(values)
    while waiting and left >= 0:
        value = waiting.pop()
        left -= _HELD
        if isinstance(value, str | bytes):
            left -= len(value)
        elif isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif isinstance(value, BaseModel):
            waiting += value.__dict__.values()
        elif callable(value) and not isinstance(value, Undefined):
            raise SecurityError("it hands a function on; a method of text is called with ()")
    budget.handled = left
    if left < 0:
        raise SecurityError(f"it handles more than {_MAX_HANDLED} characters")


def _spend_on_items(value: object) -> None:
    """Charge for the values that one text is about to become."""
    budget = _budget.get()
    if budget is not None and isinstance(value, str):
        budget.handled -= _CHARACTER * len(value)
        if budget.handled < 0:
            raise SecurityError(f"it handles more than {_MAX_HANDLED} characters")


class Data(str):
    """A rendered expression; a string that remembers which field it came from."""

    field: str | None = None

    def __str__(self) -> str:
        return self


def as_text(value: object) -> str:
    """Write a value as a prompt shows it: text as it is, an enum by its value, anything else as compact JSON."""
    if isinstance(value, Undefined):
        return str(value)  # which raises
    _spend(value)
    value = _plain(value)
    if isinstance(value, str):
        return str.__str__(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> Any:
    if isinstance(value, Undefined):
        return str(value)  # which raises
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {_key(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if callable(value):
        raise SecurityError("it writes a function; a method of text is called with ()")
    return str(value)


def _key(key: object) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


@pass_context  # which also keeps Jinja from folding constants into the static text around them
def _mark(_: Any, value: object, origin: str | None) -> Data:
    data = Data(as_text(value))
    data.field = origin
    return data


def _counted(items: Iterable[Any], written: int) -> Iterator[Any]:
    """``items`` one by one; ``written`` characters of the template's own text stand in the loop."""
    budget = _budget.get()
    for item in items:
        if budget is not None:
            budget.loops -= 1
            budget.handled -= written
            if budget.loops < 0:
                raise SecurityError(f"it loops more than {_MAX_LOOPS} times")
            if budget.handled < 0:
                raise SecurityError(f"it handles more than {_MAX_HANDLED} characters")
        yield item


@pass_context
def _weighed(_: Any, value: object) -> object:
    """``value`` as it is, charged for: it is about to be compared, or to be a key."""
    _spend(value)
    return value


def _joined(parts: list[str], between: str = "") -> str:
    if sum(map(len, parts)) + len(between) * len(parts) > MAX_TEXT:
        raise SecurityError(f"it makes a text of more than {MAX_TEXT} characters")
    return between.join(parts)


def _concat(*parts: object) -> str:
    return _joined([as_text(part) for part in parts])


def _join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        raise SecurityError("join takes no attribute; write |map(attribute=…)|join")
    return _joined([as_text(part) for part in value], as_text(d))


def _replace(value: object, old: str, new: str) -> str:
    text = as_text(value)
    if len(text) + text.count(old) * len(new) > MAX_TEXT:
        raise SecurityError(f"it makes a text of more than {MAX_TEXT} characters")
    return text.replace(old, new)


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # keeps what Jinja notes on its filters
    def call(*args: Any, **kwargs: Any) -> Any:
        _spend(*args, *kwargs.values())
        if name in _ITEMS:
            for value in args:
                _spend_on_items(value)
        if name == "sum" and not all(isinstance(start, int | float) for start in (*args[3:], kwargs.get("start", 0))):
            raise SecurityError("sum adds numbers; its start is one")
        if name == "tojson" and not all(_is_indent(i) for i in (*args[2:], kwargs.get("indent"))):
            raise SecurityError(f"tojson indents by at most {_MAX_INDENT}")
        return function(*args, **kwargs)

    return call


def _is_indent(indent: object) -> bool:
    return indent is None or (isinstance(indent, int) and indent <= _MAX_INDENT)


class Sandbox(ImmutableSandboxedEnvironment):
    """No loader, no globals; every expression's output is marked as data, every loop and filter counted."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # what is constant is worked out when it is rendered, and charged like all else
        )
        self.globals.clear()
        own = {"join": _join, "replace": _replace}
        self.filters = {n: _charged(n, own.get(n, self.filters[n])) for n in FILTERS}
        self.filters.update(_fslm_mark=_mark, _fslm_counted=_counted, _fslm_concat=_concat, _fslm_weighed=_weighed)
        tests = cast("dict[str, Callable[..., Any]]", self.tests)
        self.tests = {n: _charged(n, test) for n, test in tests.items()}

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A filter that a filter was given by name, as in ``map('upper')``."""
        if name not in FILTERS:
            raise SecurityError(f"there is no filter named {name!r}")
        return super().call_filter(name, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _spend(left, right)
            return _joined([left, right])
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"'{operator}' is for numbers only")
        if isinstance(left, int) and isinstance(right, int):
            bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * max(0, right)}
            if bits.get(operator, 0) > _MAX_BITS:
                raise SecurityError(f"'{operator}' makes too large a number")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's, but a dict's keys come before its methods: a field may be called ``items``."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value: Any) -> None:
        """No wrapper for ``str.format`` as Jinja's: it is refused like every method that is not listed."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        _spend(*([obj] if isinstance(argument, slice) else []), *([argument] if isinstance(argument, tuple) else []))
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, BaseModel):
            return attr in type(obj).model_fields or attr in type(obj).model_computed_fields
        if isinstance(value, Undefined):
            return True
        if callable(value) and not (isinstance(obj, str | dict) and attr in METHODS):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def is_safe_callable(self, obj: Any) -> bool:
        return isinstance(getattr(obj, "__self__", None), str | dict) and getattr(obj, "__name__", "") in METHODS

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(obj, Undefined):
            str(obj)  # which raises, and says what is not there
        if not self.is_safe_callable(obj):
            name = getattr(obj, "__name__", type(obj).__name__)
            raise SecurityError(f"it calls {name!r}; of text and dicts it may call " + ", ".join(sorted(METHODS)))
        _spend(obj.__self__, *args, *kwargs.values())
        if obj.__name__ in _ITEMS:
            _spend_on_items(obj.__self__)
        return super().call(context, obj, *args, **kwargs)

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """As Jinja's; a tree, which is how it hands over an expression, is watched over too."""
        if isinstance(source, nodes.Template):
            source = _Instrument(_origins(source)).visit(source)
        return super().from_string(source, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Instrument(_origins(tree)).visit(tree)  # type: ignore[no-any-return]


def undeclared(tree: nodes.Template) -> frozenset[str]:
    """The names a template uses and does not set itself, found without working out what is constant in it."""
    finder = TrackingCodeGenerator(cast("Environment", tree.environment))
    finder.optimizer = None
    finder.visit(tree)
    return frozenset(finder.undeclared_identifiers)


class _Instrument(NodeTransformer):
    """Marks what expressions write, counts what loops do, and bounds what ``~`` makes."""

    def __init__(self, origins: dict[str, str | None]) -> None:
        self._of = origins

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        node.nodes = [
            child
            if isinstance(child, nodes.TemplateData)
            else _filter(cast("nodes.Expr", self.visit(child)), "_fslm_mark", nodes.Const(self._origin(child)))
            for child in node.nodes
        ]
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        if node.name.startswith("_"):
            raise TemplateAssertionError(f"No filter named {node.name!r}.", node.lineno)
        self.generic_visit(node)
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        written = sum(len(text.data) for part in node.body for text in _texts_in(part))
        node.iter = _filter(cast("nodes.Expr", node.iter), "_fslm_counted", nodes.Const(written))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _filter(node.expr, "_fslm_weighed")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "_fslm_weighed")
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filter(node.key, "_fslm_weighed")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        first, *rest = node.nodes
        return _filter(first, "_fslm_concat", *rest)

    def _origin(self, node: nodes.Expr) -> str | None:
        root = _root(node)
        seen: set[str] = set()
        while root in self._of and root not in seen:
            seen.add(root)
            root = self._of[root]
        return root


def _texts_in(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    if isinstance(node, nodes.TemplateData):
        yield node
    yield from node.find_all(nodes.TemplateData)


def _filter(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    made = nodes.Filter(node, name, list(args), [], None, None)
    made.set_lineno(node.lineno)
    made.environment = node.environment
    return made


def _root(node: nodes.Node) -> str | None:
    """The one variable an expression is about, or None if it is about several or none."""
    names = {n.name for n in ([node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name))}
    return names.pop() if len(names) == 1 else None


def _origins(tree: nodes.Template) -> dict[str, str | None]:
    """For every name a template makes itself: the name it stands for, or None where that cannot be told.

    A loop's variable stands for what the loop goes through. A name that is set, that two loops share, or that is
    also asked for outside its loop stands for nothing certain; neither does ``loop``.
    """
    found: dict[str, set[str | None]] = {"loop": {None}, "self": {None}}
    inside: set[int] = set()
    for loop in tree.find_all(nodes.For):
        targets = _names(loop.target)
        for name in targets:
            found.setdefault(name, set()).add(_root(loop.iter))
        body = [*loop.body, *([loop.test] if loop.test else [])]
        for part in body:
            inside |= {id(n) for n in [part, *part.find_all(nodes.Name)] if _named(n) in targets}
        inside |= {id(n) for n in [loop.target, *loop.target.find_all(nodes.Name)]}
    for use in tree.find_all(nodes.Name):
        if use.name in found and id(use) not in inside:
            found[use.name].add(None)
    made = [set_.target for set_ in tree.find_all(nodes.Assign)]
    made += [set_.target for set_ in tree.find_all(nodes.AssignBlock)]
    made += [target for scope in tree.find_all(nodes.With) for target in scope.targets]
    for name in (name for target in made for name in _names(target)):
        found.setdefault(name, set()).add(None)
    return {name: roots.pop() if len(roots) == 1 else None for name, roots in found.items()}


def _names(target: nodes.Node) -> set[str]:
    return {n.name for n in ([target] if isinstance(target, nodes.Name) else target.find_all(nodes.Name))}


def _named(node: nodes.Node) -> str | None:
    return node.name if isinstance(node, nodes.Name) else None


__all__ = ["FILTERS", "MAX_TEXT", "METHODS", "Data", "Sandbox", "budgeted", "undeclared"]
