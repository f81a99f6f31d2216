"""The fair queue: whatever comes in whatever order, shares are even, orders are kept and nobody is lost."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.backends.torch.queue import PASSED, FairQueue


@dataclass(eq=False)
class Item:
    """Work that waits. Its identity is what counts: two items may look alike."""

    group: str
    cost: int
    priority: int
    job: str = ""
    number: int = field(default_factory=itertools.count().__next__)


items = st.builds(Item, st.sampled_from("abc"), st.integers(1, 9), st.just(0))
urgent_or_not = st.builds(Item, st.sampled_from("abc"), st.integers(1, 9), st.integers(0, 2))


def filled(*waiting: Item) -> FairQueue[Item]:
    queue = FairQueue[Item]()
    for item in waiting:
        push(queue, item)
    return queue


def push(queue: FairQueue[Item], item: Item) -> None:
    queue.push(item, group=item.group, job=item.job, cost=item.cost, priority=item.priority)


def drained(queue: FairQueue[Item]) -> list[Item]:
    return [queue.pop() for _ in range(len(queue))]


@given(st.lists(urgent_or_not))
def test_all_come_out_once_the_urgent_first_and_each_group_in_its_order(waiting: list[Item]) -> None:
    queue = filled(*waiting)
    assert len(queue) == len(waiting) and set(queue) == set(waiting)
    out = drained(queue)
    assert [i.priority for i in out] == sorted(i.priority for i in waiting)
    for lane in {(i.group, i.priority) for i in waiting}:
        assert [i for i in out if (i.group, i.priority) == lane] == [
            i for i in waiting if (i.group, i.priority) == lane
        ]
    with pytest.raises(IndexError):
        queue.pop()
    assert queue.peek() is None and not queue


@given(st.lists(items, min_size=1, max_size=60))
def test_while_two_groups_wait_they_are_served_alike(waiting: list[Item]) -> None:
    """Goyal, Vin and Cheng 1996, theorem 1: shares differ by at most the two groups' largest items."""
    queue = filled(*waiting)
    left: Counter[str] = Counter(item.group for item in waiting)
    served: Counter[str] = Counter()
    largest = {group: max(item.cost for item in waiting if item.group == group) for group in left}
    groups = sorted(left)
    while queue:
        item = queue.pop()
        left[item.group] -= 1
        served[item.group] += item.cost
        for a, b in itertools.combinations(groups, 2):
            if left[a] and left[b]:
                assert abs(served[a] - served[b]) <= largest[a] + largest[b]


@given(st.lists(urgent_or_not, max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_who_comes_alone_waits_for_at_most_one_of_each_group(crowd: list[Item], served: list[int]) -> None:
    """Whatever is served before, and however many urgent ones are among them."""
    queue = filled(*crowd)
    for _ in served:
        if queue:
            queue.pop()
    single = Item("single", 5, priority=1)
    push(queue, single)
    ahead = list(itertools.takewhile(lambda i: i is not single, drained(queue)))
    alike = [i.group for i in ahead if i.priority == single.priority]
    assert len(alike) == len(set(alike))


def test_urgent_work_does_not_set_the_others_back() -> None:
    """Shares are kept within a priority: what the urgent had is nobody else's debt."""
    queue = filled(*(Item("batch", 10, 1) for _ in range(20)))
    for n in range(30):
        push(queue, Item(f"urgent {n}", 10, 0))
        queue.pop()
    for _ in range(10):
        push(queue, Item("urgent", 10, 0))
    for _ in range(10):
        queue.pop()
    single = Item("single", 10, 1)
    push(queue, single)
    assert drained(queue).index(single) <= 1


def test_what_was_cancelled_is_not_charged() -> None:
    queue = filled(*(Item("a", 100, 0) for _ in range(50)))
    queue.sweep(lambda _: True)
    rival = [Item("b", 1, 0) for _ in range(5)]
    wanted = Item("a", 1, 0)
    for item in (*rival, wanted):
        push(queue, item)
    assert drained(queue).index(wanted) <= 1


def test_what_is_left_moves_up_when_work_before_it_is_cancelled() -> None:
    costly, wanted = Item("a", 100, 0), Item("a", 1, 0)
    queue = filled(Item("a", 1, 0), costly, wanted, *(Item("b", 10, 0) for _ in range(5)))
    queue.sweep(lambda item: item is costly)
    assert drained(queue).index(wanted) <= 3


def run(group: str, number: int, cost: int = 1) -> list[Item]:
    """The pieces of one run."""
    return [Item(group, cost, 0, job=f"{group} {number}") for _ in range(3)]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=10))
def test_a_run_that_has_begun_goes_before_those_that_have_not(groups: list[str]) -> None:
    """Some pieces wait from the first, others come once those before them are served."""
    runs = [run(group, n) for n, group in enumerate(groups)]
    queue = filled(*(piece for pieces in runs for piece in pieces[:2]))
    out = []
    while queue:
        out.append(item := queue.pop())
        pieces = next(pieces for pieces in runs if item in pieces)
        if item is pieces[1]:
            push(queue, pieces[2])
    assert sorted(map(id, out)) == sorted(id(piece) for pieces in runs for piece in pieces)
    assert all(len({item.job for item in out[n : n + 3]}) == 1 for n in range(0, len(out), 3))


@given(st.integers(1, 4))
def test_runs_without_end_do_not_keep_others_from_beginning(many: int) -> None:
    queue = filled(*(Item("agents", 1, 0, job=f"agent {n}") for n in range(many)))
    for _ in range(many):
        queue.pop()
    for n in range(many):
        push(queue, Item("agents", 1, 0, job=f"agent {n}"))
    single = Item("single", 1, 0)
    push(queue, single)
    before = 0
    while (item := queue.pop()) is not single:
        push(queue, Item("agents", 1, 0, job=item.job))
        before += 1
    assert before == PASSED


def test_what_goes_before_others_is_charged_all_the_same() -> None:
    """A batch of long runs does not get more than a batch of short ones."""
    long = [run("long", n) for n in range(8)]
    short = [Item("short", 1, 0) for _ in range(24)]
    queue = filled(*itertools.chain(*long), *short)
    out = drained(queue)
    for n in range(4, 40, 4):
        had = Counter(item.group for item in out[:n])
        assert abs(had["long"] - had["short"]) <= 4


@given(st.lists(urgent_or_not, max_size=40), st.sets(st.integers(0, 40)))
def test_sweeping_takes_out_just_those(waiting: list[Item], gone: set[int]) -> None:
    queue, out = filled(*waiting), {i for n, i in enumerate(waiting) if n in gone}
    queue.sweep(lambda item: item in out)
    stay = [i for i in waiting if i not in out]
    assert drained(queue) == drained(filled(*stay))


@given(st.lists(urgent_or_not, min_size=1, max_size=30), st.data())
def test_removing_one_that_is_no_longer_at_the_head(waiting: list[Item], data: st.DataObject) -> None:
    """Between a look at the head and its removal somebody more urgent may have come."""
    queue = filled(*waiting)
    head = queue.peek()
    assert head is not None
    newcomer = Item("new", 1, priority=data.draw(st.integers(-1, 2)))
    push(queue, newcomer)
    queue.remove(head)
    out = drained(queue)
    assert head not in out and set(out) == {*waiting, newcomer} - {head}


@given(st.lists(st.tuples(st.booleans(), urgent_or_not), max_size=80))
def test_an_idle_time_earns_no_credit(steps: list[tuple[bool, Item]]) -> None:
    """A group that was away starts where the others are: it cannot have all of the machine for what it did not use."""
    queue = FairQueue[Item]()
    for come, item in steps:
        if come:
            push(queue, item)
        elif queue:
            queue.pop()
    late = [Item("late", 5, 0) for _ in range(8)]
    busy = [Item("busy", 5, 0) for _ in range(8)]
    for pair in zip(busy, late, strict=True):
        for item in pair:
            push(queue, item)
    out = [i for i in drained(queue) if i in late or i in busy]
    for n in range(0, 16, 2):
        assert {out[n].group, out[n + 1].group} == {"late", "busy"}


@pytest.mark.parametrize("crowd", [0, 3])
def test_nothing_is_remembered_for_ever_of_groups_that_are_gone(crowd: int) -> None:
    """Every request may be a group of its own, and a server runs for months, with somebody always waiting or not."""
    queue = filled(*(Item("crowd", 1, 9) for _ in range(crowd)))
    for n in range(5000):
        item = Item(str(n), 3, 0)
        push(queue, item)
        assert queue.pop() is item
    assert sum(len(value) for value in vars(queue).values() if isinstance(value, dict)) < 4000
    assert len(queue) == crowd
