"""Generated models as a person reads them, and as linter and formatter want them."""

from __future__ import annotations

import textwrap

from fslm_core.scaffold.kinds import Day, Labels, Many, Record, Slot, Text
from fslm_core.scaffold.source import Model, import_line, messages_source

PLACE = Record("Place", (Slot("city", Text(1, 20)),))
MESSAGE = Model("Message", "What somebody wrote.", (Slot("text", Text()),))
TOPIC = Model(
    "Topic",
    "What it is about.",
    (
        Slot("topic", Labels(("bad", "good"), "TopicLabel"), comment="2 different texts in 9 rows"),
        Slot("day", Day(), nullable=True),
        Slot("places", Many(PLACE, 3)),
    ),
)


def test_a_module_is_what_a_person_would_write() -> None:
    both = Model("Both", "The two together.", bases=(TOPIC, MESSAGE))
    source = messages_source([MESSAGE, TOPIC, both], "What passes between the stages.")
    assert source == textwrap.dedent('''\
        """What passes between the stages."""

        from __future__ import annotations

        import datetime
        from typing import Annotated, Literal

        from pydantic import BaseModel, Field

        TopicLabel = Literal["bad", "good"]


        class Place(BaseModel):
            """Part of a message."""

            city: Annotated[str, Field(min_length=1, max_length=20)]


        class Message(BaseModel):
            """What somebody wrote."""

            text: Annotated[str, Field(min_length=1)]


        class Topic(BaseModel):
            """What it is about."""

            # 2 different texts in 9 rows
            topic: TopicLabel
            day: datetime.date | None
            places: Annotated[list[Place], Field(max_length=3)]


        class Both(Topic, Message):
            """The two together."""


        __all__ = ["Both", "Message", "Place", "Topic"]
    ''')
    assert [slot.name for slot in both.fields] == ["text", "topic", "day", "places"]
    assert list(both.made.model_fields) == ["text", "topic", "day", "places"]


def test_many_labels_stand_below_each_other() -> None:
    labels = Labels(tuple(f"label {n:03}" for n in range(100)), "TopicLabel")
    source = messages_source([Model("Topic", "It.", (Slot("topic", labels),))], "Models.")
    assert (
        '\nTopicLabel = Literal[\n    "label 000",\n    "label 001",\n' in source
        and '\n    "label 099",\n]\n' in source
    )
    assert max(map(len, source.splitlines())) <= 120


def test_imports_are_in_a_linter_s_order() -> None:
    assert (
        import_line(["hookimpl", "Stage", "SLM", "Stack", "Stage"], "a") == "from a import SLM, Stack, Stage, hookimpl"
    )
    assert import_line(["M10", "M2"], "a") == "from a import M2, M10"
    assert import_line([f"LongName{n}" for n in range(20)], "a").count("\n") == 21
