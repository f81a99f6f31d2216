"""Training on a part of the rows: what is drawn, S2L's clusters and even sampling, and a reference run that goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.errors import MissingExtraError, TrainError
from fslm_core.settings import TorchSettings
from fslm_core.train import Event, Noted, Saved, Working, load_recipe
from fslm_core.train.model import add_lora, load_base
from fslm_core.train.objective import Example, Objective
from fslm_core.train.recipe import Lora
from fslm_core.train.select import drawn, evenly, learnt_alike

from .test_train_run import RECIPE, Halt, rows, train, weights, write

pytestmark = pytest.mark.torch

S2L = '[select]\nmethod = "s2l"\nshare = 0.4\nclusters = 5\nmoments = 3\nepochs = 1\nlayers = 1\nrank = 2\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a recipe that selects, and its rows."""
    (tmp_path / "recipe.toml").write_text(RECIPE + S2L)
    write(tmp_path / "rows.jsonl", rows())
    return tmp_path


def record(place: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((place / "out" / "fslm.json").read_text())
    return made


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.data())
def test_even_sampling_takes_as_many_of_each_cluster_as_can_be(clusters: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(clusters)))
    places = evenly(clusters, size, seed=1)
    assert len(places) == len(set(places)) == size and places == sorted(places)
    taken, held = Counter(clusters[place] for place in places), Counter(clusters)
    cut = [taken[c] for c in held if taken[c] < held[c]]
    assert all(taken[c] <= min(cut) + 1 for c in held if cut)
    assert evenly(clusters, size, seed=1) == places


def test_rows_learnt_alike_fall_together() -> None:
    early, late, never = [1.0, 0.1, 0.0], [2.0, 1.9, 0.1], [3.0, 3.0, 3.0]
    found = learnt_alike([early, late, early, never, late], 3, seed=0)
    assert found[0] == found[2] and found[1] == found[4] and len(set(found)) == 3
    assert learnt_alike([early] * 4, 3, seed=0) == [0] * 4


def test_a_random_draw_depends_on_its_seed() -> None:
    assert drawn(100, 9, seed=1) == drawn(100, 9, seed=1) != drawn(100, 9, seed=2)
    assert drawn(3, 3, seed=0) == [0, 1, 2]


def test_a_rows_own_loss_is_the_mean_over_its_target(tiny_model: Callable[..., Path]) -> None:
    examples = [Example((1, 40, 41), (60, 61, 2)), Example((1, 40, 42, 43), (62, 2), weight=3.0)]
    tuned, _ = add_lora(load_base(tiny_model("llama"), TorchSettings()), Lora(rank=2), seed=0)
    objective = Objective(tuned, examples, frozen=0)
    one, two = objective.row_losses([0, 1])
    assert objective.row_losses([1]) == [pytest.approx(two, rel=1e-5)]
    for row, loss in enumerate((one, two)):
        ids = torch.tensor([examples[row].prompt + examples[row].target])
        with torch.no_grad():
            logits = tuned(input_ids=ids).logits[0].log_softmax(-1)
        first = len(examples[row].prompt) - 1
        expected = -sum(logits[first + n, token] for n, token in enumerate(examples[row].target))
        assert loss == pytest.approx(float(expected) / len(examples[row].target), rel=1e-4)


def test_s2l_trains_on_a_part_and_tells_which(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    told: list[Event] = []
    result = train(place, base, progress=told.append)
    training = record(place)["training"]
    assert training["selected_by"] == "s2l" and training["rows"] == round(0.4 * training["selected_of"])
    chosen = json.loads((result.work / "selected.json").read_text())
    assert len(chosen["lines"]) == training["rows"] == sum(c["taken"] for c in chosen["clusters"])
    assert sum(c["rows"] for c in chosen["clusters"]) == training["selected_of"]
    notes = [e.text for e in told if isinstance(e, Noted)]
    assert sum("reference, moment" in text for text in notes) == 3
    assert any(e.what == "training the reference" for e in told if isinstance(e, Working))
    again: list[Event] = []
    assert weights(train(place, base, overrides=["select.share=0.4"], progress=again.append)) == weights(result)
    assert any("found before" in e.text for e in again if isinstance(e, Noted))


def test_another_share_uses_the_same_reference(place: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model("llama")
    train(place, base)
    told: list[Event] = []
    train(place, base, overrides=["select.share=0.2"], progress=told.append)
    assert not any(e.what == "training the reference" for e in told if isinstance(e, Working))
    told.clear()
    train(place, base, overrides=["select.seed=5"], progress=told.append)
    assert any(e.what == "training the reference" for e in told if isinstance(e, Working))


@pytest.mark.parametrize("moment", [1, 3])
def test_a_stopped_reference_run_goes_on_exactly(place: Path, tiny_model: Callable[..., Path], moment: int) -> None:
    base = tiny_model("llama")
    whole = weights(train(place, base))
    for file in (place / "runs" / "recipe.select").glob("*.json"):
        file.unlink()
    seen: list[Saved] = []

    def halt(event: Event) -> None:
        if isinstance(event, Saved):
            seen.append(event)
            if len(seen) == moment:
                raise Halt

    with pytest.raises(Halt):
        train(place, base, progress=halt)
    told: list[Event] = []
    assert weights(train(place, base, resume=True, progress=told.append)) == whole
    steps = [e.done for e in told if isinstance(e, Working) and e.what == "training the reference"]
    assert not steps or min(steps) == seen[-1].step + 1


def test_random_needs_no_reference(place: Path, tiny_model: Callable[..., Path]) -> None:
    (place / "recipe.toml").write_text(RECIPE + '[select]\nmethod = "random"\nrows = 7\n')
    train(place, tiny_model("llama"))
    assert record(place)["training"]["rows"] == 7 and not (place / "runs" / "recipe.select").exists()
    with pytest.raises(TrainError, match="another recipe"):
        train(place, tiny_model("llama"), overrides=["select.seed=4"], resume=True)


@pytest.mark.parametrize("share", ["0", "0.001"])
def test_a_share_of_nothing_is_refused(place: Path, tiny_model: Callable[..., Path], share: str) -> None:
    with pytest.raises(TrainError, match="would hold no row"):
        train(place, tiny_model("llama"), overrides=[f"select.share={share}"])
    assert not (place / "out").exists()


def test_share_and_rows_exclude_each_other(place: Path) -> None:
    for text in ("[select]\n", "[select]\nshare = 0.5\nrows = 3\n", "[select]\nshare = 1.5\n"):
        (place / "recipe.toml").write_text(RECIPE + text)
        with pytest.raises(TrainError, match="1 problem"):
            load_recipe(place / "recipe.toml")


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="loss trajectories"):
        learnt_alike([[1.0]], 1, seed=0)
