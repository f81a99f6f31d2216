"""A stage's labels as rows: each with the input that its step was given, the newest label of each input."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..engine.recall import recall
from ..errors import FslmError
from ..message import plain_path
from ..plugins import PluginHost
from ..schema import canonical, loads, plain_data
from ..stack import Stack, places
from ..stage import Stage
from ..store import Label, StoredNode, StoredRun
from .rows import Row, checked

NO_CORRECTION = "wrong, and nobody wrote what would have been right"
NOT_FULL = "the run was not kept in full"
NO_STACK = "the run's stack is not installed"
CHANGED = "the stack has no such step of the stage any more"
NO_INPUT = "what the step was given cannot be told"
OTHERWISE = "the stack gives the step something else now"
NO_FIT = "it does not fit the stage as it is now"
OLDER = "another label of the same input is newer"
SAME = "another label of the same input says the same"
THERE = "an old row says the same"


@dataclass(frozen=True, slots=True)
class New:
    """A row that a label made; ``rejected`` is what the step said in its place."""

    label: Label
    row: Row
    rejected: str | None


@dataclass(frozen=True)
class Stacks:
    """Where the stacks of runs are found: the one that was given, or the plugins'."""

    host: PluginHost
    given: Stack[Any, Any] | str | None

    @property
    def only(self) -> str | None:
        """The name of the only stack whose runs are looked at."""
        return self.given.name if isinstance(self.given, Stack) else self.given

    def stage(self, name: str) -> Stage[Any, Any]:
        """The stage of that name."""
        inside = self.given.stages if isinstance(self.given, Stack) else ()
        return next((stage for stage in inside if stage.name == name), None) or self.host.stage(name)

    def stack(self, name: str) -> Stack[Any, Any]:
        """The stack of that name."""
        return self.given if isinstance(self.given, Stack) else self.host.stack(name)


@dataclass
class Collected:
    """Rows by their input's text, the newest label of each; and every label that gave none, with why."""

    stage: Stage[Any, Any]
    stacks: Stacks
    by_input: dict[str, New] = field(default_factory=dict)
    skipped: list[tuple[Label, str, str | None]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many labels gave no row, by why, the most frequent first."""
        return dict(Counter(why for _, why, _ in self.skipped).most_common())

    def skip(self, label: Label, why: str, error: FslmError | str | None = None) -> None:
        """Note that a label gave no row."""
        told = str(error.found or error.what) if isinstance(error, FslmError) else error
        self.skipped.append((label, why, told))

    def take(self, run: StoredRun, labels: list[Label]) -> None:
        """Make rows of a run's labels."""
        useful = [label for label in labels if label.right or label.correction is not None]
        for label in labels:
            if label not in useful:
                self.skip(label, NO_CORRECTION)
        if not useful:
            return
        if run.row.content != "full":
            return self._all(useful, NOT_FULL)
        try:
            stack = self.stacks.stack(run.row.stack)
        except FslmError as error:
            return self._all(useful, NO_STACK, error)
        nodes = {path: step.node for path, step in places(stack)}
        known = [label for label in useful if self._is(nodes.get(plain_path(label.step)))]
        self._all([label for label in useful if label not in known], CHANGED)
        found = recall(run, stack, [label.step for label in known])
        by_id = {node.id: node for node in run.nodes}
        for label in known:
            if label.step in found.given and label.node in by_id:
                self._row(label, found.given[label.step], by_id[label.node])
            else:
                self.skip(label, NO_INPUT, found.error)

    def _all(self, labels: list[Label], why: str, error: FslmError | None = None) -> None:
        for label in labels:
            self.skip(label, why, error)

    def _is(self, node: object) -> bool:
        return isinstance(node, Stage) and node.name == self.stage.name

    def _row(self, label: Label, value: Any, node: StoredNode) -> None:
        if self._asks_otherwise(value, node):
            return self.skip(label, OTHERWISE)
        said = None if node.content is None else node.content.json
        output = label.correction if label.correction is not None else loads(said or "null")
        row = checked({"input": plain_data(value), "output": output}, 0, self.stage)
        if isinstance(row, str):
            return self.skip(label, NO_FIT, row)
        rejected = said if label.correction is not None and said is not None and said != row.target else None
        there = self.by_input.get(text_of(row))
        if there is None:  # the newest comes first
            self.by_input[text_of(row)] = New(label, row, rejected)
        else:
            self.skip(label, SAME if there.row.target == row.target else OLDER)

    def _asks_otherwise(self, value: Any, node: StoredNode) -> bool:
        """Whether the same template asks with other data than it did: then this is not the input that it was."""
        asked = node.attempts[-1].prompt if node.attempts else None
        try:
            now = self.stage.render(value)
        except FslmError:  # it is told of when it is trained; the row itself is what it was
            return False
        return asked is not None and now != asked and now.static == asked.static


def text_of(row: Row) -> str:
    """By which rows of one input are known."""
    return canonical(row.input)


__all__ = ["THERE", "Collected", "New", "Stacks", "text_of"]
