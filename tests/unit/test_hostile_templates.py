"""Ways out of Jinja's sandbox that the world knows of, and bombs: every one is refused, in templates and conditions.

The payloads are those of the advisories and of the usual collections, written for this sandbox's variables.
"""

from __future__ import annotations

import pytest

from fslm_core import SLM, Stack, Stage, Step
from fslm_core.errors import CheckError, PromptError
from fslm_core.prompt import Expression, Template
from fslm_core.prompt.sandbox import FILTERS

from ..campaigns.fuzz.texts import Everything, Loose

VALUES = {"x": "ab", "n": 3, "items": ["a", "b"], "d": {"k": 1}, "big": "ab" * 500_000, "none": None}

EXPRESSIONS = {
    # str.format reaches attributes behind the sandbox's back
    "CVE-2016-10745 str.format": "'{0.__class__}'.format(x)",
    "CVE-2016-10745 through a variable": "x.format(x)",
    "CVE-2019-10906 str.format_map": "'{a.__class__.__mro__}'.format_map({'a': x})",
    "CVE-2019-10906 unbound": "x['format_map']({'a': 1})",
    "CVE-2024-56201 code in a name": "x.__init__.__globals__['__builtins__']",
    "CVE-2024-56326 str.format kept": "[x.format][0](x)",
    "CVE-2024-56326 through a filter": "['{0.__class__}'.format]|map('string')|list",
    "CVE-2024-56326 through map": "['{0.__class__}']|map('format', x)|first",
    "CVE-2025-27516 attr to format": "('{0.__class__}'|attr('format'))(x)",
    "CVE-2025-27516 attr in map": "['{0.__class__}']|map('attr', 'format')|first",
    "CVE-2025-27516 attribute= to format": "['{0.__class__}']|map(attribute='format')|first",
    "CVE-2014-1402 bytecode cache, no loader": "x.__loader__.load_module('os')",
    "CVE-2020-28493 urlize": "big|urlize",
    "CVE-2024-22195 xmlattr with spaces": "{'a b': 1}|xmlattr",
    "CVE-2024-34064 xmlattr with slashes": "{'a/b=c': 1}|xmlattr",
    "a method handed on": "[x.upper]|map('string')|first",
    "a method compared": "x.upper == x.lower",
    "mro of a string": "''.__class__.__mro__[1].__subclasses__()",
    "mro by items": "''['__class__']['__mro__'][1]['__subclasses__']()",
    "mro by joined names": "''['__cl' ~ 'ass__']",
    "mro by escapes": "''['\\x5f\\x5fclass\\x5f\\x5f']",
    "mro by reversal": "''['__ssalc__'[::-1]]",
    "mro of a list": "[].__class__.__base__.__subclasses__()",
    "mro of a tuple": "().__class__.__bases__[0]",
    "mro of a dict": "{}.__class__.__mro__",
    "mro of none": "none.__class__",
    "mro of true": "true.__class__.__mro__",
    "a method's function": "x.upper.__func__",
    "a method's globals": "items.append.__self__",
    "a function's code": "x.upper.__call__",
    "cycler's globals": "cycler.__init__.__globals__.os.popen('id').read()",
    "joiner's globals": "joiner.__init__.__globals__",
    "namespace's globals": "namespace.__init__.__globals__",
    "lipsum's globals": "lipsum.__globals__['os'].popen('id').read()",
    "lipsum by attr": "lipsum|attr('__globals__')",
    "range": "range(10**12)|list",
    "dict": "dict(a=1).__class__",
    "the context": "self._TemplateReference__context.cycler",
    "the context by name": "_TemplateReference__context",
    "the environment": "environment.globals",
    "request": "request.application.__globals__",
    "config": "config.__class__",
    "url_for": "url_for.__globals__",
    "get_flashed_messages": "get_flashed_messages.__globals__",
    "caller": "caller.__init__",
    "varargs": "varargs.__class__",
    "a filter that is not ours": "x|pprint",
    "a hidden filter": "x|_fslm_mark('d')",
    "a hidden filter by name": "items|map('_fslm_mark', 'd')|first",
    "groupby": "items|groupby('__class__')",
    "select by attribute": "items|selectattr('__class__.__name__', 'eq', 'str')|list",
    "sort by attribute": "items|sort(attribute='__class__.__name__')",
    "sum by attribute": "items|sum(attribute='__class__')",
    "unique by attribute": "items|unique(attribute='__class__')|list",
    "max by attribute": "items|max(attribute='__class__')",
    "changing a list": "items.append('c')",
    "changing a dict": "d.update({'a': 1})",
    "changing by setdefault": "d.setdefault('z', 1)",
    "encode": "x.encode('utf-8')",
    "translate": "x.translate({97: 'b'})",
    "maketrans": "x.maketrans('a', 'b')",
    # time and memory
    "bomb: repeated text": "'a' * 10**9",
    "bomb: repeated list": "[1] * 10**9",
    "bomb: power": "2 ** (10**9)",
    "bomb: tower of powers": "((9**64)**64)**64",
    "bomb: formatted width": "'%099999999d' % n",
    "bomb: format filter": "'%099999999d'|format(n)",
    "bomb: center": "x.center(10**9)",
    "bomb: center filter": "x|center(10**9)",
    "bomb: ljust": "x.ljust(10**9)",
    "bomb: zfill": "x.zfill(10**9)",
    "bomb: expandtabs": "'\t'.expandtabs(10**9)",
    "bomb: indent filter": "x|indent(10**9)",
    "bomb: tojson indent": "d|tojson(indent=10**9)",
    "bomb: join": "big|join(big)",
    "bomb: replace": "big|replace('', big)",
    "bomb: list of characters": "(big ~ big ~ big ~ big)|list|list|length",
    "bomb: split": "(big ~ big ~ big ~ big).split('a')|length",
    "bomb: sum of lists": "items|map('list')|sum(start=[])",
    "bomb: batch": "items|batch(10**9)|list",
    "bomb: slice filter": "items|slice(10**9)|list",
    "bomb: wordwrap": "big|wordwrap(1)",
    "bomb: quoted again and again": "'aaaa'" + "|list|string" * 14,
    "bomb: parentheses": "(" * 5000 + "n" + ")" * 5000,
    "bomb: a long sum": "n" + " + 1" * 300,
    "bomb: a long number": "9" * 5000,
    "bomb: negations": "not " * 5000 + "n",
    "bomb: a list in lists": "[" * 500 + "]" * 500,
}  # fmt: skip

_TWICE = "{% set a0 = [1] %}{% set b0 = [1.0] %}" + "".join(
    f"{{% set a{i + 1} = [a{i}, a{i}] %}}{{% set b{i + 1} = [b{i}, b{i}] %}}" for i in range(40)
)
_PAIRS = "{% set a0 = (1,) %}" + "".join(f"{{% set a{i + 1} = (a{i}, a{i}) %}}" for i in range(40))
STATEMENTS = {
    "include": "{% include '/etc/passwd' %}",
    "include of a list": "{% include ['/etc/passwd'] ignore missing %}",
    "import": "{% import 'os' as os %}",
    "from import": "{% from 'os' import system %}",
    "extends": "{% extends '/etc/passwd' %}",
    "a macro in itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro's globals": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "call": "{% call x() %}{% endcall %}",
    "a recursive loop": "{% for a in items recursive %}{{ loop(items) }}{% endfor %}",
    "the loop's own parts": "{% for a in items %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "the loop's environment": "{% for a in items %}{{ loop._iterable }}{% endfor %}",
    "loop.cycle": "{% for a in items %}{{ loop.cycle.__func__ }}{% endfor %}",
    "set to a namespace": "{% set ns = namespace() %}{% set ns.a = x %}",
    "set on a value": "{% set x.a = 1 %}",
    "do": "{% do items.append(1) %}",
    "debug": "{% debug %}",
    "trans": "{% trans %}a{% endtrans %}",
    "a filter block": "{% filter upper %}a{% endfilter %}",
    "CVE-2024-56201 a name of the template's": "{% block user %}{{ super.__globals__ }}{% endblock %}",
    "super": "{% block user %}{{ super() }}{% endblock %}",
    "bomb: loops in loops": "{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}",
    "bomb: twenty-five loops": "{% for a in items %}" * 25 + "{% endfor %}" * 25,
    "bomb: 2^40 items written": _TWICE + "{{ a40 }}",
    "bomb: 2^40 items as JSON": _TWICE + "{{ a40|tojson }}",
    "bomb: 2^40 items as text": _TWICE + "{{ a40|string|length }}",
    "bomb: 2^40 items in capitals": _TWICE + "{{ a40|upper }}",
    "bomb: 2^40 items joined": _TWICE + "{{ a40|join(',') }}",
    "bomb: 2^40 items compared": _TWICE + "{% if a40 == b40 %}a{% endif %}",
    "bomb: 2^40 items looked for": _TWICE + "{% if a40 in [b40] %}a{% endif %}",
    "bomb: 2^40 items tested": _TWICE + "{% if a40 is eq(b40) %}a{% endif %}",
    "bomb: 2^40 items sorted": _TWICE + "{{ [a40, b40]|sort|length }}",
    "bomb: 2^40 items selected": _TWICE + "{{ [a40]|select('eq', b40)|list|length }}",
    "bomb: 2^40 items as a key": _PAIRS + "{{ {a40: 1}|length }}",
    "bomb: 2^40 items asked for": _PAIRS + "{{ d[a40] }}",
    "bomb: 2^40 items made unique": _PAIRS + "{{ [a40]|unique|list|length }}",
    "bomb: comparing in a loop": "{% for a in big %}{% if big == big ~ '' %}{% endif %}{% endfor %}",
    "bomb: looking in a loop": "{% for a in big %}{% if 'ba' * 1 in big %}{% endif %}{% endfor %}",
    "bomb: adding texts in a loop": "{% for a in big %}{% set b = big + big %}{% endfor %}",
    "bomb: its own text in a loop": "{% for a in big %}" + "y" * 5000 + "{% endfor %}",
    "bomb: its own text kept": "{% set a %}{% for b in big %}" + "y" * 5000 + "{% endfor %}{% endset %}{{ a|length }}",
    "bomb: text kept twice": "{% set a = big %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 30 + "{{ a|length }}",
    "bomb: loop.length": "{% for a in big ~ big %}{{ loop.length }}{% endfor %}",
}  # fmt: skip


def refused(source: str) -> PromptError:
    with pytest.raises(PromptError) as caught:
        Template(source, name="prompt.jinja").render(VALUES)
    return caught.value


@pytest.mark.parametrize("payload", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_that_wants_out_is_refused_in_a_template(payload: str) -> None:
    assert "prompt.jinja" in str(refused(f"{{{{ {payload} }}}}").where)


@pytest.mark.parametrize("payload", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_that_wants_out_is_refused_where_it_is_not_written(payload: str) -> None:
    refused(f"{{% set a = {payload} %}}{{% if a|string|length %}}a{{% endif %}}")


@pytest.mark.parametrize("payload", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_that_wants_out_is_refused_as_a_condition(payload: str) -> None:
    with pytest.raises(PromptError):
        Expression(f"({payload})|string|length > 0").holds(VALUES)


@pytest.mark.parametrize("source", STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_that_wants_out_is_refused(source: str) -> None:
    refused(source)


@pytest.mark.parametrize(
    "payload", ["x.__class__", "lipsum.__globals__", "x|attr('a')", "a %}{% include 'b' %}{% if a"]
)
def test_a_stack_with_such_a_condition_or_template_fails_its_check(payload: str) -> None:
    def stack(prompt: str, when: str | None) -> Stack[Loose, Everything]:
        made = Stage("bad.one", input=Loose, output=Everything, prompt=prompt, model=SLM("b", tuned=True))
        return Stack("bad", input=Loose, output=Everything, steps=[Step(made, when=when)])

    with pytest.raises(CheckError, match="step one: when"):
        _ = stack("{{ text }}", payload).wiring
    with pytest.raises(CheckError, match="step one"):
        _ = stack(f"{{{{ {payload} }}}}", None).wiring


def test_the_filters_are_a_short_list_and_none_of_them_formats_or_reaches() -> None:
    assert not FILTERS & {
        "attr",
        "format",
        "xmlattr",
        "urlize",
        "pprint",
        "groupby",
        "batch",
        "slice",
        "indent",
        "center",
    }
    assert len(FILTERS) < 40


def test_a_large_but_honest_template_stays_within_its_bounds() -> None:
    rows = [{"name": f"name {i}", "price": i, "tags": ["a", "b"]} for i in range(2000)]
    source = (
        "{% for r in rows if r.price > 3 and 'a' in r.tags %}{{ loop.index }} {{ r.name|upper }} {{ r.tags|join('/') }}"
        "{% if r.name == 'name 7' %}!{% endif %}\n{% endfor %}{{ rows|map(attribute='price')|sum }} {{ text|length }}"
    )
    prompt = Template(source).render({"rows": rows, "text": "word " * 200_000})
    assert (prompt.text("user") or "").endswith("1999000 1000000")
