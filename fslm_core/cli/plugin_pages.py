"""What ``fslm plugins show`` and ``fslm plugins verify`` print."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ..govern import PluginPage, Verification
from ..govern.show import AdapterPage, StagePage
from . import screen


def show(page: PluginPage) -> None:
    """Print one plugin's page; what is empty is left out."""
    screen.result(screen.clean(f"plugin {page.name}: {page.distribution} {page.version}".rstrip()))
    if page.summary:
        screen.result(screen.clean(f"  {page.summary}"))
    facts = [
        ("state", f"{page.state}: {page.reason}" if page.reason else page.state),
        ("needs", _needs(page.core)),
        ("installed", _installed(page)),
        ("size", f"{page.size:,} bytes in {page.files} file{'' if page.files == 1 else 's'}" if page.files else ""),
        ("licence", page.licence),
        ("hooks", ", ".join(page.hooks)),
        ("backends", ", ".join(page.backends)),
        ("verbs", ", ".join(f"fslm {verb}" for verb in page.verbs)),
    ]
    for name, value in facts:
        if value:
            screen.result(screen.clean(f"  {name:<10}{value}"))
    adapted = {adapter.stage for adapter in page.adapters if adapter.variant is None}
    _section(["stage", "from -> to", "runs", "what it does"], [_stage(stage, adapted) for stage in page.stages])
    stacks = [[s.name, f"{s.input} -> {s.output}", ", ".join(s.steps), s.description] for s in page.stacks]
    _section(["stack", "from -> to", "steps", "what it does"], stacks)
    checkpoints = [[c.name, c.source, c.licence, ", ".join(c.languages)] for c in page.checkpoints]
    _section(["base model", "from", "licence", "languages"], checkpoints)
    for adapter in page.adapters:
        _adapter(adapter)


def _needs(core: str | None) -> str:
    if core is None:
        return "states no version of fslm-core that it needs, so any loads it"
    return f"fslm-core {core or 'of any version'}"


def _installed(page: PluginPage) -> str:
    how = {
        "index": "from a package index",
        "local": f"from {page.origin}",
        "url": f"from {page.origin}",
        "editable": "editable, used where it lies",
        "program": "by a program",
        "unknown": "by something else than pip",
    }[page.source]
    return f"{how}, in {page.place}" if page.place else how


def _section(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table after an empty line; columns in which nothing stands are left out."""
    if rows:
        used = [n for n in range(len(heads)) if any(row[n] for row in rows)]
        screen.result("")
        screen.table([heads[n] for n in used], ([row[n] for n in used] for row in rows))


def _stage(stage: StagePage, adapted: Collection[str]) -> list[str]:
    if stage.base is None:
        runs = f"a tool, version {stage.tool}"
    else:
        runs = f"{stage.base}{' + adapter' if stage.name in adapted else ''}{'' if stage.tuned else ' (untuned)'}"
    if stage.variants:
        runs += f", or its variants {', '.join(stage.variants)}"
    if stage.replaced:
        runs += f", with the adapter of the settings: {stage.replaced}"
    return [stage.name, f"{stage.input} -> {stage.output}", runs, stage.description]


def _adapter(adapter: AdapterPage) -> None:
    variant = f", variant {adapter.variant}" if adapter.variant else ""
    screen.result(screen.clean(f"\nadapter of {adapter.stage}{variant}"))
    licences = ", ".join(f"{source}: {licence}" for source, licence in sorted(adapter.licences.items()))
    facts = [
        ("problem", adapter.problem),
        ("in", adapter.place),
        ("sha256", adapter.sha256),
        ("rank", f"{adapter.rank} on {adapter.base}, {adapter.size:,} bytes" if adapter.rank else ""),
        ("languages", ", ".join(adapter.languages)),
        ("licences", licences),
        ("data", f"sha256 {adapter.data_sha256}" if adapter.data_sha256 else ""),
        ("scores", ", ".join(f"{name} {value:.4g}" for name, value in adapter.scores.items())),
        ("recipe", _recipe(adapter)),
    ]
    for name, value in facts:
        if value:
            screen.result(screen.clean(f"  {name:<10}{value}"))


def _recipe(adapter: AdapterPage) -> str:
    """The plain values of a recipe, dotted; --json has it as it stands."""

    def flat(value: object, name: str) -> Iterable[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(inner, f"{name}.{key}" if name else str(key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{name} {value:g}"

    return ", ".join(flat(adapter.recipe, ""))


def verified(found: Sequence[Verification]) -> None:
    """Print what was compared, and what differs."""
    rows = ([v.distribution, v.version, v.source, v.files, v.adapters, _outcome(v)] for v in found)
    screen.table(["distribution", "version", "from", "files", "adapters", "outcome"], rows)
    for verification in found:
        for note in verification.notes:
            screen.say(f"{verification.distribution}: {note}")
        for difference in verification.differences:
            screen.result(screen.clean(f"\n{difference.file}: {difference.what}"))
            screen.result(screen.clean(f"  expected {difference.expected}\n  found    {difference.found}"))
        if not verification.ok:
            screen.say(f"next: {verification.cure}")


def _outcome(found: Verification) -> str:
    if not found.ok:
        return f"{len(found.differences)} differ{'s' if len(found.differences) == 1 else ''}"
    return "nothing differs" if found.source in ("editable", "program", "unknown") else "as shipped"


__all__ = ["show", "verified"]
