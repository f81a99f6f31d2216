"""The layers of a drawing, and how far apart things stand in one: what a layout reckons with, without any text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import accumulate

from ..stack import INPUT, OUTPUT
from .graph import Flow, Graph


def without_loops(graph: Graph) -> list[tuple[Flow, str, str, bool]]:
    """Each flow with its upper and its lower end; one that would close a loop is turned round."""
    after: dict[str, list[str]] = {part.name: [] for part in graph.parts}
    for flow in graph.flows:
        after[flow.source].append(flow.target)
    back: set[tuple[str, str]] = set()
    begun: set[str] = set()
    for part in graph.parts:
        way = [(part.name, iter(after[part.name]))] if part.name not in begun else []
        begun.add(part.name)
        while way:
            name, targets = way[-1]
            target = next(targets, None)
            if target is None:
                way.pop()
            elif target == INPUT or name == OUTPUT or any(target == above for above, _ in way):
                back.add((name, target))
            elif target not in begun:
                begun.add(target)
                way.append((target, iter(after[target])))
    found = []
    for flow in graph.flows:
        if flow.source != flow.target:
            turned = (flow.source, flow.target) in back
            source, target = (flow.target, flow.source) if turned else (flow.source, flow.target)
            found.append((flow, source, target, turned))
    return found


def ranks(graph: Graph, ways: Sequence[tuple[str, str]]) -> Mapping[str, int]:
    """Layers from the top: each part below all it comes from, the output last, what comes from nothing near its use."""
    before: dict[str, set[str]] = {part.name: set() for part in graph.parts}
    after: dict[str, set[str]] = {part.name: set() for part in graph.parts}
    for source, target in ways:
        before[target].add(source)
        after[source].add(target)
    rank = {name: int(name != INPUT) for name in before}
    for name in TopologicalSorter(before).static_order():
        rank[name] = max([rank[name], *(1 + rank[source] for source in before[name])])
    for name in before:
        if not before[name] and after[name] and name != INPUT:
            rank[name] = min(rank[target] for target in after[name]) - 1
    rank[OUTPUT] = max(rank[OUTPUT], 1 + max(rank[name] for name in before if name != OUTPUT))
    return rank


def apart(wanted: Sequence[float], gaps: Sequence[float], weights: Sequence[float] = ()) -> list[float]:
    """Numbers near those wanted, each at least so far behind the one before: least squares, by pooling neighbours.

    >>> apart([0.0, 0.0, 9.0], [2.0, 2.0])
    [-1.0, 1.0, 9.0]
    """
    offsets = list(accumulate(gaps, initial=0.0))
    pools: list[tuple[float, float, int]] = []
    for number, place in enumerate(wanted):
        mean, weight, size = place - offsets[number], weights[number] if weights else 1.0, 1
        while pools and pools[-1][0] > mean:
            other, heavy, count = pools.pop()
            mean = (other * heavy + mean * weight) / (heavy + weight)
            weight, size = heavy + weight, count + size
        pools.append((mean, weight, size))
    flat = [mean for mean, _, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=False)]


__all__ = ["apart", "ranks", "without_loops"]
