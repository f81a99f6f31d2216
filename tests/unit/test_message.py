"""Names, digests and sums of messages."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fslm_core.message import Problem, Usage, derive_seed, digest, node_id

_PARTS = st.lists(st.none() | st.text() | st.binary(), max_size=4)


@given(one=_PARTS, other=_PARTS)
def test_digests_differ_where_the_parts_do(one: list[str | bytes | None], other: list[str | bytes | None]) -> None:
    def plain(parts: list[str | bytes | None]) -> list[bytes | None]:
        return [p.encode("utf-8", "surrogatepass") if isinstance(p, str) else p for p in parts]

    assert (digest(*one) == digest(*other)) == (plain(one) == plain(other))


def test_digests_do_not_run_together() -> None:
    lists: list[tuple[str | None, ...]] = [
        (),
        ("",),
        (None,),
        ("", ""),
        ("a", "b"),
        ("ab",),
        ("1:a",),
        ("-",),
        ("a", None),
    ]
    assert len({digest(*parts) for parts in lists}) == len(lists)
    assert len(digest("\ud800")) == 64


def test_seeds_are_63_bits_and_depend_on_every_part() -> None:
    seeds = {
        derive_seed(seed, step, index, attempt)
        for seed in (0, 1, -1)
        for step in ("a", "b")
        for index in (0, 1)
        for attempt in (0, 1)
    }
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(7, "a") == derive_seed(7, "a", 0, 0)


def test_node_ids() -> None:
    assert node_id("r", "s") == "r/s/0/0"
    assert node_id("r", "s", 1, 2) == "r/s/1/2"


@given(st.lists(st.builds(Usage, *[st.integers(0, 9)] * 5, *[st.floats(0, 9)] * 4), max_size=5))
def test_usages_add_up(usages: list[Usage]) -> None:
    total = sum(usages, Usage())
    assert total.output == sum(u.output for u in usages)
    assert math.isclose(total.seconds, sum(u.seconds for u in usages))


def test_problems_name_their_field() -> None:
    assert str(Problem("schema", "too long", "a.b")) == "a.b: too long"
    assert str(Problem("json", "not JSON")) == "not JSON"
