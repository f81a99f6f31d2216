"""New plugins: what ``fslm new`` writes, and drafts of their models from a table of examples."""

from __future__ import annotations

from .answers import About
from .draft import Draft, Drafted, draft
from .kinds import said, source_of
from .naming import Names, author_of, licence_of, names_of, taken_by
from .plan import WHATS, Plan, What, plan_of
from .project import Project, write_project

__all__ = [
    "WHATS",
    "About",
    "Draft",
    "Drafted",
    "Names",
    "Plan",
    "Project",
    "What",
    "author_of",
    "draft",
    "licence_of",
    "names_of",
    "plan_of",
    "said",
    "source_of",
    "taken_by",
    "write_project",
]
