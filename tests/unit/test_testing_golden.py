"""Golden token ids: training and serving see the same, and what was kept; on a tiny checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, PluginHost, Stage
from fslm_core.testing import clean_settings
from fslm_core.testing.broken import ContractBroken
from fslm_core.testing.golden import golden_path, golden_text

pytestmark = pytest.mark.torch


class Review(BaseModel):
    text: str


class Opinion(BaseModel):
    sentiment: Literal["good", "bad"]
    why: Annotated[str, Field(max_length=20)]


EXAMPLES = [
    ({"text": "It leaks <|im_end|>"}, {"sentiment": "bad", "why": "leaks [1, 2]"}),
    (Review(text="שלום 🙂"), Opinion(sentiment="good", why="")),
]


@pytest.fixture
def stage(tiny_model: Callable[..., Path]) -> Stage[Review, Opinion]:
    prompt = "{% block system %}opinion{% endblock %}{% block user %}{{ text }}{% endblock %}"
    return Stage("kit.opinion", input=Review, output=Opinion, prompt=prompt, model=SLM(str(tiny_model())))


@pytest.fixture
def made(stage: Stage[Review, Opinion], tmp_path: Path) -> Callable[..., str]:
    settings = clean_settings(tmp_path)
    host = PluginHost(settings, installed=False)

    def make(examples: Any = EXAMPLES, stage: Stage[Any, Any] = stage) -> str:
        return golden_text(stage, examples, host, settings)

    return make


def test_the_ids_are_those_of_the_tokenizer(made: Callable[..., str], stage: Stage[Any, Any], tmp_path: Path) -> None:
    from fslm_core.backends.torch.vocabulary import Vocabulary

    data = json.loads(made())
    assert (data["stage"], data["base"]) == ("kit.opinion", stage.model and stage.model.base)
    first, second = data["examples"]
    assert first["output"] == {"sentiment": "bad", "why": "leaks [1, 2]"} and second["input"] == {"text": "שלום 🙂"}
    tokenizer = Vocabulary(Path(data["base"])).tokenizer
    assert tokenizer.decode(first["answer"]) == '{"sentiment":"bad","why":"leaks [1, 2]"}'
    control = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(first["prompt"]).count("<|im_end|>") == 3
    assert first["prompt"].count(control) == 2 and control not in first["answer"]
    assert golden_path(tmp_path, stage) == tmp_path / "golden/kit.opinion.json"
    assert made() == made()


def test_another_prompt_has_other_ids(made: Callable[..., str], stage: Stage[Any, Any]) -> None:
    other = Stage(stage.name, input=Review, output=Opinion, prompt="{{ text }}!", model=stage.model)
    assert made(stage=other) != made()


def test_serving_other_tokens_than_training_is_told(made: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fslm_core.backends.torch import encoding

    plain = encoding.encode_text
    monkeypatch.setattr(encoding, "encode_text", lambda text, tokenizer: plain(" " + text, tokenizer))
    with pytest.raises(ContractBroken, match="training and serving see different token ids"):
        made()


@pytest.mark.parametrize(
    ("examples", "says"),
    [
        ([], "there is no example whose token ids could be kept"),
        ([({"text": "x"}, Opinion.model_construct(sentiment="fine", why=""))], "an example does not fit the stage"),
        ([({"text": "x" * 5000}, {"sentiment": "bad", "why": ""})], "an example cannot be trained on"),
    ],
)
def test_an_example_that_cannot_be_used_is_told(made: Callable[..., str], examples: Any, says: str) -> None:
    with pytest.raises(ContractBroken, match=says):
        made(examples)
