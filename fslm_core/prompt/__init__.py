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

from .spans import REDACTED, ROLES, Prompt, Role, Span
from .template import Expression, Template, variables_of

__all__ = ["REDACTED", "ROLES", "Expression", "Prompt", "Role", "Span", "Template", "variables_of"]
