"""What rows share with each other, and what they must never leave behind.

Whatever is copied, kept, waited for, cancelled, thrown out or broken: each row's choices are those of transformers
and PEFT for that row alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from fslm_core.backends.protocol import Sampling
from fslm_core.backends.torch.fused import flight
from fslm_core.backends.torch.fused.products import Format
from fslm_core.backends.torch.fused.shape import Shape
from fslm_core.backends.torch.fused.slots import Block, Slots
from fslm_core.backends.torch.row import Row
from fslm_core.backends.torch.vocabulary import Grammar
from fslm_core.errors import BackendError

from .flights import CPU, TARGETS, TIMES, Desk, assert_faithful, make_base, prompt, wreck
from .test_torch_backend_adapters import make_adapter

pytestmark = pytest.mark.torch

STATIC = prompt(1, 40)
DOCUMENT = prompt(2, 90, STATIC)


class House(NamedTuple):
    """A base of three layers and adapters that begin in different ones."""

    base: Path
    top: Path
    other_top: Path
    middle: Path
    low: Path
    broken: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("house")
    base = make_base(folder / "base")

    def made(name: str, seed: int, layers: list[int]) -> Path:
        return make_adapter(base, folder / name, seed, target_modules=TARGETS, layers_to_transform=layers)

    return House(
        base=base,
        top=made("top", 1, [2]),
        other_top=made("other_top", 2, [2]),
        middle=made("middle", 3, [1, 2]),
        low=made("low", 4, [0]),
        broken=wreck(made("broken", 5, [2])),
    )


@pytest.fixture
def no_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that are guessed ahead would be counted too."""
    monkeypatch.setattr(flight, "DRAFTED", 0)


def room(desk: Desk, length: int, slots: int) -> int:
    """Bytes of a budget with room for so many slots of a length, a part of it being the prefix store's."""
    return -(-length * slots * desk.flight._slots.bytes_per_token * flight._PREFIX_SHARE // (flight._PREFIX_SHARE - 1))


def small(base: Path, length: int, slots: int) -> Desk:
    """A flight with just so many slots."""
    return Desk(base, budget=room(Desk(base), length, slots) + 1)


# What is computed once.


def test_the_same_prompt_again_costs_one_token(house: House, no_drafts: None) -> None:
    desk = Desk(house.base)
    first = desk.fly(DOCUMENT, max_tokens=1)
    assert (first.cached, desk.fed) == (0, len(DOCUMENT))
    again = desk.fly(DOCUMENT, max_tokens=1)
    assert (again.cached, desk.fed) == (len(DOCUMENT) - 1, len(DOCUMENT) + 1)
    assert again.tokens == first.tokens
    assert_faithful(again, house.base, None)


def test_only_what_differs_is_computed_beside_a_row_still_in_flight(house: House, no_drafts: None) -> None:
    desk = Desk(house.base)
    first = desk.send(DOCUMENT, max_tokens=30)
    desk.tick(3)
    assert first.finished is None
    before, second = desk.fed, desk.send(prompt(3, 100, DOCUMENT[:80]), max_tokens=5)
    desk.tick()
    assert second.cached == 80 and desk.fed - before == 20 + 1
    desk.land()
    for row in (first, second):
        assert_faithful(row, house.base, None)


def test_a_static_beginning_outlives_the_slot_it_was_computed_in(house: House, no_drafts: None) -> None:
    desk = small(house.base, 128, 1)
    for n in range(3):
        row = desk.fly(prompt(10 + n, 60, STATIC), static=len(STATIC), max_tokens=3)
        assert row.cached == (len(STATIC) if n else 0)
        assert_faithful(row, house.base, None)
        other = desk.fly(prompt(20 + n, 100), max_tokens=3)
        assert other.cached == 0 and len(desk.slots) == 1
        assert_faithful(other, house.base, None)


def test_a_static_beginning_is_kept_for_each_adapter_by_itself(house: House, no_drafts: None) -> None:
    desk = small(house.base, 128, 4)
    order = [house.top, None, house.other_top, house.top, house.other_top, None]
    rows = []
    for n, adapter in enumerate(order):
        rows.append(desk.fly(prompt(n, 60, STATIC), adapter, static=len(STATIC), max_tokens=3))
        for other in range(4):  # of the slot nothing is left
            desk.fly(prompt(100 * n + other, 100), max_tokens=1)
    assert [row.cached for row in rows] == [0, 0, 0, 40, 40, 40]
    for row, adapter in zip(rows, order, strict=True):
        assert_faithful(row, house.base, adapter)


@pytest.mark.parametrize("tokens", [256, 7])
def test_a_prompt_that_is_all_static_runs_as_often_as_one_likes(
    tokens: int, house: House, no_drafts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", tokens)
    desk = small(house.base, 64, 4)
    for n in range(3):
        row = desk.fly(STATIC, static=len(STATIC), max_tokens=3)
        assert_faithful(row, house.base, None)
        assert row.cached == (len(STATIC) - 1 if n else 0)
        for other in range(4):  # of the slot nothing is left
            desk.fly(prompt(9 * n + other, 50), max_tokens=1)


def test_the_prefix_store_stays_within_its_share(house: House) -> None:
    desk = small(house.base, 128, 2)
    budget = desk.flight._prefixes._budget
    for n in range(12):
        beginning = prompt(100 + n, 30)
        assert_faithful(desk.fly(prompt(n, 50, beginning), static=30, max_tokens=2), house.base, None)
        assert sum(kept.bytes for kept in desk.flight._prefixes._kept.values()) <= budget
    assert 0 < len(desk.flight._prefixes) < 12
    assert desk.fly(prompt(99, 50, beginning), static=30).cached == 30


@pytest.mark.parametrize("tokens", [256, 16])
def test_layers_below_every_adapter_are_computed_once_for_all(
    tokens: int, house: House, no_drafts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", tokens)
    desk = Desk(house.base)
    desk.tune(house.top)
    desk.tune(house.other_top)
    below, above = desk.count(1), desk.count(2)
    rows = [desk.fly(DOCUMENT, a, max_tokens=1) for a in (house.top, house.other_top, None, house.top)]
    assert [row.cached for row in rows] == [0, 0, 0, 0]
    assert above.tokens == 4 * len(DOCUMENT)
    assert below.tokens == len(DOCUMENT) + 3
    for row, adapter in zip(rows, (house.top, house.other_top, None, house.top), strict=True):
        assert_faithful(row, house.base, adapter)


def test_documents_that_differ_at_their_ends_share_lower_layers_as_far_as_they_agree(
    house: House, no_drafts: None
) -> None:
    desk = Desk(house.base)
    desk.tune(house.top)
    desk.tune(house.middle)
    below = desk.count(0)
    for n, adapter in enumerate((house.top, house.middle, None, house.middle)):
        assert_faithful(desk.fly(prompt(n, 110, DOCUMENT), adapter, max_tokens=6), house.base, adapter)
    assert below.tokens == 4 * (110 - 90 + 5) + 90


@pytest.mark.parametrize("number_format", ["float32", "bfloat16", "float16", "int8", "int4"])
def test_every_format_takes_a_forward_whose_tokens_are_all_there_in_the_lower_layers(
    number_format: Format, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", 16)
    base = make_base(tmp_path / "even", hidden_size=64, intermediate_size=64, vocab_size=192)
    adapters = [
        make_adapter(base, tmp_path / name, seed, target_modules=TARGETS, layers_to_transform=[2])
        for seed, name in enumerate("ab")
    ]
    ids = [token % 192 for token in DOCUMENT]
    desk = Desk(base, number_format=number_format)
    for adapter in adapters:
        desk.tune(adapter)
    cold = Desk(base, number_format=number_format)
    cold.tune(adapters[1])
    desk.fly(ids, adapters[0])
    shared, alone = desk.fly(ids, adapters[1]), cold.fly(ids, adapters[1])
    assert shared.error is None and shared.cached == 0
    assert shared.tokens == alone.tokens
    assert shared.logprobs == pytest.approx(alone.logprobs, abs=0.02)


def test_a_then_b_then_a_equals_a_alone(house: House) -> None:
    adapters = (house.top, house.middle, None, house.low)
    for first in adapters:
        for second in adapters:
            desk = Desk(house.base)
            rows = [desk.fly(DOCUMENT, adapter, max_tokens=3) for adapter in (first, second, first)]
            for row, adapter in zip(rows, (first, second, first), strict=True):
                assert_faithful(row, house.base, adapter)


def test_all_at_once_equals_each_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "TOKENS", 24)
    desk = Desk(house.base, most=12)
    order = [house.top, None, house.other_top, house.top, house.middle, None]
    rows = [desk.send(prompt(n, 70 + 9 * n, DOCUMENT[:60]), a, max_tokens=5) for n, a in enumerate(order)]
    desk.land()
    for row, adapter in zip(rows, order, strict=True):
        assert_faithful(row, house.base, adapter)


# Waiting for another row's prompt.


def test_a_row_waits_for_what_another_is_about_to_compute(
    house: House, no_drafts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", 16)
    desk = Desk(house.base)
    rows = [desk.send(DOCUMENT, max_tokens=1) for _ in range(5)]
    desk.land()
    assert [row.cached for row in rows] == [0] + [len(DOCUMENT) - 1] * 4
    assert desk.fed == len(DOCUMENT) + 4
    for row in rows:
        assert_faithful(row, house.base, None)


@pytest.mark.parametrize("end", ["cancelled", "failed", "cleared"])
@pytest.mark.parametrize("same", [True, False])
def test_who_is_waited_for_may_end_at_any_time(
    end: str, same: bool, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", 16)
    for after in (0, 1, 2, 4, 6, 7):
        desk = Desk(house.base)
        desk.tune(house.top)
        desk.tune(house.other_top)
        first = desk.send(DOCUMENT, house.top, max_tokens=3)
        adapters = [house.top, house.top if same else house.other_top, None]
        second, third = (desk.send(prompt(n, 100, DOCUMENT[:85]), adapters[n], max_tokens=3) for n in (1, 2))
        desk.tick(after)
        if end == "cancelled":
            desk.cancel(first)
        elif end == "failed":
            first.error = BackendError("it broke", where="a test")
        else:
            assert set(desk.flight.clear()) <= {first, second, third}
            second, third = (desk.send(prompt(n, 100, DOCUMENT[:85]), adapters[n], max_tokens=3) for n in (1, 2))
        desk.land()
        for row, adapter in ((second, adapters[1]), (third, None)):
            assert_faithful(row, house.base, adapter)


def test_who_waits_may_go_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "TOKENS", 16)
    desk = Desk(house.base)
    first, second, third = (desk.send(DOCUMENT, max_tokens=3) for _ in range(3))
    desk.tick()
    desk.cancel(second)
    assert desk.tick() == [second]
    desk.land()
    for row in (first, third):
        assert_faithful(row, house.base, None)


# An adapter that comes while rows are in flight.


@pytest.mark.parametrize("static", [0, 40, 80])
@pytest.mark.parametrize("newcomer", ["low", "middle"])
@pytest.mark.parametrize("known", [True, False])
def test_an_adapter_that_touches_lower_layers_comes_while_rows_are_read(
    known: bool, newcomer: str, static: int, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", 16)
    for after in (1, 4, 6):
        desk = Desk(house.base)
        early = house.top if known else None
        new: Path = getattr(house, newcomer)
        first = desk.send(DOCUMENT, early, static=static, max_tokens=8)
        waiting = desk.send(prompt(7, 95, DOCUMENT), early, static=static, max_tokens=3)
        desk.tick(after)
        late = desk.send(DOCUMENT, new, static=static, max_tokens=3)
        desk.land()
        sequel = [(a, desk.fly(DOCUMENT, a, static=static, max_tokens=3)) for a in (early, house.other_top, new, early)]
        for adapter, row in [(early, first), (early, waiting), (new, late), *sequel]:
            assert_faithful(row, house.base, adapter)


def test_a_beginning_kept_across_such_an_arrival_is_right_for_those_who_share_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's row is half read when the first adapter comes: what the lower layers gave was not noted by then."""
    monkeypatch.setattr(flight, "TOKENS", 16)
    desk = small(house.base, 128, 2)
    desk.send(DOCUMENT, static=80, max_tokens=2)
    desk.tick(2)
    desk.tune(house.top)
    desk.land()
    for n in range(2):  # of the first row's slots nothing is left
        desk.send(prompt(50 + n, 100), max_tokens=2)
    desk.land()
    base_row = desk.send(prompt(8, 95, DOCUMENT), static=80, max_tokens=4)
    desk.tick()
    tuned = desk.send(prompt(9, 95, DOCUMENT), house.top, static=80, max_tokens=4)
    desk.land()
    assert_faithful(base_row, house.base, None)
    assert_faithful(tuned, house.base, house.top)


# Memory.


def test_memory_stays_within_the_budget_and_rows_wait_for_it(house: House) -> None:
    desk = small(house.base, 128, 3)
    budget = desk.flight._slots._budget
    prompts = [prompt(n, 40 + 7 * n) for n in range(10)]
    waiting, rows = [desk.row(ids, max_tokens=4) for ids in prompts], []
    for _ in range(500):
        while waiting and desk.flight.admit(waiting[0], None):
            rows.append(waiting.pop(0))
        assert desk.flight._slots.reserved <= budget
        desk.tick()
        if not waiting and not desk.flight.rows:
            break
    assert [row.prompt.ids for row in rows] == prompts
    for row in rows:
        assert_faithful(row, house.base, None)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells a process's own memory on Linux only")
def test_a_slot_takes_memory_as_it_is_written_to() -> None:
    shape = Shape(30, 576, 9, 3, 64, 1536, 100, 1e-5, False)
    before = own_memory()
    slots = Slots(shape, 2 << 30, CPU)
    held = [slot for _ in range(8) if (slot := slots.take(4096)) is not None]
    assert slots.reserved > 1 << 30 and own_memory() - before < 1 << 26
    for slot in held:
        slot.kv[:, :, :, :40] = 1
    written = 40 * slots.bytes_per_token * len(held)
    assert own_memory() - before < 2 * written + (1 << 26)


def test_a_free_slot_of_up_to_twice_the_length_is_taken_before_another_is_made(house: House) -> None:
    slots = Slots(Shape.of(AutoConfig.from_pretrained(house.base)), 1 << 30, CPU)
    longest, long = slots.take(400), slots.take(150)
    assert longest is not None and long is not None
    slots.free(longest)
    assert slots.take(100) is not longest
    slots.free(long)
    assert slots.take(100) is long and slots.take(300) is longest


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(0, 2), min_size=1, max_size=9),
)
def test_what_slots_have_in_common_with_a_prompt_is_counted_from_its_first_token(
    held: list[list[int]], ids: list[int]
) -> None:
    block = Block(Shape(1, 2, 1, 1, 2, 2, 3, 1e-5, False), len(held), 6, CPU)
    for slot, tokens in zip(block.slots, held, strict=True):
        slot.tokens[:] = tokens
    naive = [next((i for i, (a, b) in enumerate(zip(t, ids, strict=False)) if a != b), min(6, len(ids))) for t in held]
    assert block.common(np.array(ids)) == naive


def own_memory() -> int:
    """Bytes that this process has for itself, by the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_a_row_larger_than_the_budget_runs_alone(house: House) -> None:
    desk = small(house.base, 128, 2)
    short, long = desk.send(prompt(1, 90), max_tokens=4), desk.row(prompt(2, 700), max_tokens=4)
    assert not desk.flight.admit(long, None)
    desk.land()
    assert desk.flight.admit(long, None)
    again = desk.row(prompt(1, 90), max_tokens=4)
    assert not desk.flight.admit(again, None)
    desk.land()
    assert desk.flight.admit(again, None)
    desk.land()
    assert desk.flight._slots.reserved <= desk.flight._slots._budget
    for row in (short, long, again):
        assert_faithful(row, house.base, None)


def test_a_failure_while_a_row_is_placed_leaks_no_slot(house: House) -> None:
    class Trap(Grammar):
        def __init__(self) -> None:
            pass

        def advance(self, limit: int) -> list[int]:
            raise RuntimeError("a defect of the grammar library")

    desk = Desk(house.base)
    with pytest.raises(RuntimeError):
        desk.send(DOCUMENT, grammar=Trap())
    assert not any(slot.busy for slot in desk.slots) and not desk.flight.rows
    assert_faithful(desk.fly(DOCUMENT), house.base, None)


# What is no number stays where it is.


def test_a_broken_adapter_fails_its_own_rows_only(house: House) -> None:
    desk = Desk(house.base)
    desk.tune(house.top)
    order = [None, house.broken, house.top, house.broken, None, house.other_top]
    rows = [desk.send(prompt(n, 30 + 6 * n, STATIC[:25]), a, max_tokens=6) for n, a in enumerate(order)]
    desk.land()
    rows += [desk.fly(prompt(n, 60, STATIC[:25]), a, max_tokens=6) for n, a in enumerate(order)]
    for row, adapter in zip(rows, order * 2, strict=True):
        if adapter is house.broken:
            assert isinstance(row.error, BackendError) and "not a number" in str(row.error)
        else:
            assert_faithful(row, house.base, adapter)


@pytest.mark.parametrize("end", ["failed", "cancelled", "sampled"])
def test_the_next_owner_of_a_broken_rows_slot_finds_only_numbers(
    end: str, house: House, no_drafts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shorter and shares attention calls with a longer neighbour, so that what was left behind is looked at."""
    monkeypatch.setattr(flight, "TOKENS", 1024)
    desk = Desk(house.base)
    sampling = Sampling(temperature=1.0) if end == "sampled" else Sampling()
    victims = [desk.send(prompt(n, 58), house.broken, max_tokens=2, sampling=sampling) for n in range(8)]
    with pytest.MonkeyPatch.context() as patch:
        if end == "cancelled":  # before any has come to its choice
            patch.setattr(flight, "decide", lambda weights, chances: None)
        desk.tick()
    if end == "cancelled":
        for row in victims:
            desk.cancel(row)
    desk.land()
    assert all((row.error is not None) == (end != "cancelled") for row in victims)
    rows = [desk.send(prompt(20 + n, 6 if n % 2 else 50), max_tokens=12) for n in range(8)]
    assert len(desk.slots) == 8  # they own the very slots
    desk.land()
    for row in rows:
        assert_faithful(row, house.base, None)


# Anything, in any order.

ADAPTERS = (None, "top", "other_top", "middle", "low", "broken")
TEXTS = [
    DOCUMENT,
    STATIC,
    prompt(3, 60, STATIC),
    prompt(4, 130, DOCUMENT),
    prompt(5, 30),
    prompt(6, 90, DOCUMENT[:70]),
    (5,),
]
sent = st.tuples(st.integers(0, len(TEXTS) - 1), st.sampled_from(ADAPTERS), st.integers(1, 12), st.booleans())
steps = st.one_of(
    sent, st.integers(1, 5), st.just("cancel"), st.just("fail"), st.just("clear"), sent, st.integers(1, 12)
)


@settings(max_examples=60 * TIMES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schedule=st.lists(steps, min_size=3, max_size=25),
    tokens=st.sampled_from([9, 40, 256]),
    slots=st.integers(1, 6),
    pick=st.randoms(use_true_random=False),
)
def test_whatever_happens_every_row_is_what_it_is_alone(
    schedule: list[Any], tokens: int, slots: int, pick: Random, house: House
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight, "TOKENS", tokens)
        desk = small(house.base, 128, slots)
        wanted: list[tuple[Row, Path | None]] = []
        waiting: list[tuple[Row, Path | None]] = []
        spoilt: set[int] = set()

        def admit() -> None:
            while waiting and desk.flight.admit(waiting[0][0], desk.tune(waiting[0][1])):
                wanted.append(waiting.pop(0))

        for step in schedule:
            match step:
                case (int(text), name, int(most), bool(static)):
                    adapter = getattr(house, name) if name else None
                    ids = TEXTS[text]
                    row = desk.row(ids, static=min(len(STATIC), len(ids)) if static else 0, max_tokens=most)
                    waiting.append((row, adapter))
                case int(times):
                    for _ in range(times):
                        admit()
                        desk.tick()
                case "clear":
                    spoilt |= {id(row) for row in desk.flight.clear()}
                case _ if desk.flight.rows:
                    row = pick.choice(desk.flight.rows)
                    spoilt.add(id(row))
                    if step == "cancel":
                        desk.cancel(row)
                    else:
                        row.error = BackendError("it broke", where="a test")
            admit()
        while waiting or desk.flight.rows:
            before = (len(waiting), len(desk.shapes), len(desk.flight.rows))
            admit()
            desk.tick()
            assert (len(waiting), len(desk.shapes), len(desk.flight.rows)) != before, "nothing moves any more"
        assert not any(slot.busy for slot in desk.slots)
        for row, adapter in wanted:
            if id(row) in spoilt:
                continue
            if adapter is house.broken:
                assert row.error is not None
            else:
                assert_faithful(row, house.base, adapter)
