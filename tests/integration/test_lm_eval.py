"""Stacks under lm-eval's own harness, on tasks of this file and tiny random models with real adapters; no network."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import fslm_core
from fslm_core import Engine, settings
from fslm_core.errors import (
    CapabilityError,
    ContextOverflowError,
    InputError,
    StageFailedError,
    UnknownNameError,
    UsageError,
)
from fslm_core.evaluate.lm_eval import register
from fslm_core.evaluate.lm_eval.answers import answer_of
from fslm_core.evaluate.lm_eval.chain import Chain
from fslm_core.evaluate.lm_eval.contexts import Contexts
from fslm_core.evaluate.lm_eval.model import StackLM
from fslm_core.plugins import PluginHost
from fslm_core.store import TraceStore

from .cli.conftest import install
from .test_torch_backend_adapters import make_adapter

pytestmark = pytest.mark.torch

PLUGIN = '''
"""A plugin for lm-eval: what a message is about, and an answer to it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from fslm_core import SLM, Stack, Stage, Step, hookimpl, tool

Topics = Literal["ORDER", "REFUND", "CANCEL"]


class Note(BaseModel):
    text: Annotated[str, Field(max_length=4000)]


class Topic(BaseModel):
    topic: Topics


class Topical(Note):
    topic: Topics


class Reply(BaseModel):
    why: Annotated[str, Field(max_length=6)]
    answer: Annotated[int, Field(ge=0, le=99)]
    again: bool


class Verdict(BaseModel):
    topic: Topics
    answer: int | None
    words: int


class Words(BaseModel):
    words: int


class Pair(BaseModel):
    question: str
    choices: list[str]


class Said(BaseModel):
    said: Annotated[str, Field(max_length=30)]


@tool("lmtest.words", version="1", pure=True)
def words(note: Note) -> Words:
    """Count them."""
    return Words(words=len(note.text.split()))


@tool("lmtest.ask", version="1", pure=True)
def ask(pair: Pair) -> Note:
    """One text of a question and its choices; of no question it makes nothing."""
    if not pair.question:
        raise ValueError("no question")
    return Note(text=pair.question + " " + " ".join(pair.choices))


model = SLM(base=BASE, adapter=Path(ADAPTER))
topic = Stage("lmtest.topic", input=Note, output=Topic, prompt="Topic of: {{ text }}", model=model)
reply = Stage("lmtest.reply", input=Topical, output=Reply, prompt="Answer ({{ topic }}): {{ text }}", model=model)
said = Stage("lmtest.said", input=Note, output=Said, prompt="{{ text }}", model=SLM(base=BASE))
whole = Stack(
    "lmtest", input=Note, output=Verdict, steps=[topic, Step(reply, when="topic.topic != 'CANCEL'"), words]
)
asked = Stack("lmtest.asked", input=Pair, output=Topic, steps=[ask, topic])
parrot = Stack("lmtest.parrot", input=Note, output=Said, steps=[said])


@hookimpl
def fslm_stages():
    return [topic, reply, said, words, ask]


@hookimpl
def fslm_stacks():
    return [whole, asked, parrot]
'''

TOPICS = ["ORDER", "REFUND", "CANCEL"]
TEXTS = ["Where is my order?", "I was charged twice", "{not json} at all", "no", "Give me my money back, please"]
CHOICE = """
task: topics
dataset_path: json
dataset_kwargs: {data_files: {test: %(rows)s}, cache_dir: %(cache)s}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_target: topic
doc_to_choice: [ORDER, REFUND, CANCEL]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAYS = """
task: says
dataset_path: json
dataset_kwargs: {data_files: {test: %(rows)s}, cache_dir: %(cache)s}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: topic
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def adapter(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_model(), tmp_path_factory.mktemp("adapter"), 1)


@pytest.fixture
def home(
    tiny_model: Callable[..., Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A machine with the plugin installed, and with two tasks."""
    site = tmp_path / "site"
    site.mkdir()
    code = PLUGIN.replace("BASE", repr(str(tiny_model()))).replace("ADAPTER", repr(str(adapter)))
    install(site, "lmtest", code)
    for name in [name for name in os.environ if name.startswith("FSLM_")]:
        monkeypatch.delenv(name)
    (tmp_path / "fslm.toml").write_text('[torch]\ndevice = "cpu"\nprecision = "float32"\n')
    monkeypatch.setenv("FSLM_CONFIG", str(tmp_path / "fslm.toml"))
    monkeypatch.setenv("FSLM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FSLM_PLUGINS", "lmtest")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(fslm_core.__file__).parents[1])]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(site)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": t, "topic": TOPICS[i % 3]}) + "\n" for i, t in enumerate(TEXTS)))
    (tmp_path / "tasks").mkdir()
    for name, text in (("topics", CHOICE), ("says", SAYS)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text % {"rows": rows, "cache": tmp_path / "cache"})
    settings.default.cache_clear()
    yield tmp_path
    settings.default.cache_clear()
    sys.modules.pop("lmtest_plugin", None)


def evaluated(home: Path, task: str, **arguments: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's figures and its samples, by lm-eval's own harness."""
    register()
    tasks = TaskManager(include_path=str(home / "tasks"), include_defaults=False)
    found: Any = simple_evaluate("fslm", arguments, [task], task_manager=tasks, bootstrap_iters=0)
    return found["results"][task], found["samples"][task]


def scored(asked: list[tuple[str, str]], **arguments: Any) -> list[tuple[float, bool]]:
    model = StackLM(**{"stack": "lmtest", **arguments})
    return model.loglikelihood([Asked(*pair) for pair in asked], disable_tqdm=True)


def generated(asked: list[tuple[str, Any]], **arguments: Any) -> list[str]:
    model = StackLM(**{"stack": "lmtest", **arguments})
    return model.generate_until([Asked(*pair) for pair in asked], disable_tqdm=True)


class Asked:
    """A request as lm-eval makes them."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class Reference:
    """transformers and PEFT, plainly: the sum of the log-probabilities of a text's tokens after a prompt."""

    def __init__(self, base: Path, adapter: Path | None) -> None:
        plain: Any = AutoModelForCausalLM.from_pretrained(base)
        with warnings.catch_warnings(action="ignore"):  # PEFT asks transformers for what is to go
            self.model: Any = PeftModel.from_pretrained(plain, str(adapter)).eval() if adapter else plain.eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def of(self, user: str, begun: str, text: str) -> float:
        """Of the tokens of ``text`` that come after those of ``begun``, which it begins with."""
        turns = [{"role": "user", "content": user}]
        asked = self.ids(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        whole, start = self.ids(text), self.ids(begun)
        assert whole[: len(start)] == start
        with torch.inference_mode():
            logits = self.model(torch.tensor([asked + whole])).logits[0].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        places = range(len(asked) + len(start), len(asked) + len(whole))
        return sum(float(logprobs[place - 1, (asked + whole)[place]]) for place in places)


@pytest.fixture
def reference(tiny_model: Callable[..., Path], adapter: Path) -> Reference:
    return Reference(tiny_model(), adapter)


@pytest.mark.parametrize("executor", ["fused", "generic"])
def test_a_choice_scores_what_its_tokens_do_in_a_plain_forward(
    home: Path, reference: Reference, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLM_TORCH__EXECUTOR", executor)
    settings.default.cache_clear()
    asked = [(text, f" {topic}") for text in TEXTS for topic in TOPICS]
    found = scored(asked, field="topic")
    begun = '{"topic'
    wanted = [reference.of(f"Topic of: {text}", begun, f'{begun}":"{topic.strip()}"}}') for text, topic in asked]
    assert [score for score, _ in found] == pytest.approx(wanted, abs=1e-3)
    with Engine() as engine:
        said = {text: engine.run("lmtest", {"text": text}).output.topic for text in TEXTS}
    assert [greedy for _, greedy in found] == [said[text] == topic.strip() for text, topic in asked]


def test_the_final_stage_is_asked_with_what_the_steps_before_it_said_once(home: Path, reference: Reference) -> None:
    asked = [(text, choice) for text in TEXTS for choice in ("3", "42")]
    found = scored(asked, field="answer")
    runs = runs_of(home)
    assert sorted(run.row.stack for run in runs) == ["lmtest.scored"] * len(TEXTS)
    assert {run.row.content for run in runs} == {"none"}, "as any Engine() of a program"
    host = PluginHost(settings.default())
    stack = host.stack("lmtest")
    with Engine(host=host) as engine:
        chain = Chain(stack, answer_of(stack, "answer"))
        said = {text: engine.run(chain, {"text": text}) for text in TEXTS}
    for (text, choice), (score, greedy) in zip(asked, found, strict=True):
        run = said[text]
        topic, why = run.messages["topic"].content.topic, run.output.why
        begun = f'{{"why":{json.dumps(why, ensure_ascii=False)},"answer'
        wanted = reference.of(f"Answer ({topic}): {text}", begun, f'{begun}":{choice},"')
        assert score == pytest.approx(wanted, abs=1e-3)
        assert greedy == (run.output.answer == int(choice))


def test_the_probability_of_a_choice_is_averaged_over_sampled_chains(home: Path, reference: Reference) -> None:
    (home / "fslm.toml").write_text('[torch]\ndevice = "cpu"\nprecision = "float32"\n[trace]\ncontent = "full"\n')
    settings.default.cache_clear()
    asked = [(TEXTS[0], choice) for choice in ("3", "42")]
    found = scored(asked, field="answer", chains=5, temperature=2.5)
    assert found == scored(asked, field="answer", chains=5, temperature=2.5), "the seed is fixed"
    assert found != scored(asked, field="answer", chains=5, temperature=2.5, seed=1)
    runs = sorted(runs_of(home), key=lambda run: run.row.id)[:6]
    chains = [run for run in runs if run.row.seed != 0]
    assert len(chains) == 5 and len({told(run, "topic")["topic"] for run in chains}) > 1
    for (text, choice), (score, _) in zip(asked, found, strict=True):
        chances = []
        for run in chains:
            why = json.dumps(told(run, "reply")["why"], ensure_ascii=False)
            begun = f'{{"why":{why},"answer'
            prompt = f"Answer ({told(run, 'topic')['topic']}): {text}"
            chances.append(math.exp(reference.of(prompt, begun, f'{begun}":{choice},"')))
        assert score == pytest.approx(math.log(sum(chances) / 5), abs=1e-2)


def runs_of(home: Path) -> list[Any]:
    with TraceStore.open(settings.default().trace_path, readonly=True) as store:
        return [store.run(row.id) for row in store.runs(limit=1000)]


def told(run: Any, step: str) -> Any:
    (node,) = [node for node in run.nodes if node.step == step]
    return json.loads(node.content.json)


def test_a_choice_may_be_scored_as_it_is(home: Path, reference: Reference) -> None:
    asked = [(text, choice) for text in TEXTS[:2] for choice in (" an order", "REFUND", "")]
    found = scored(asked, field="topic", choice="text")
    wanted = [reference.of(f"Topic of: {text}", "", choice) for text, choice in asked]
    assert [score for score, _ in found] == pytest.approx(wanted, abs=1e-3)
    for text in TEXTS[:2]:
        turns = [{"role": "user", "content": f"Topic of: {text}"}]
        ids = reference.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        asked_ids = torch.tensor([reference.ids(ids)])
        with torch.inference_mode():
            written = reference.model.generate(
                input_ids=asked_ids, attention_mask=torch.ones_like(asked_ids), max_new_tokens=6, do_sample=False
            )[0, asked_ids.shape[1] :]
        begins = reference.tokenizer.decode(written[:3], skip_special_tokens=True)
        assert scored([(text, begins), (text, begins + "~"), (text, "~")], field="topic", choice="text")[0][1]
        greedy = [g for _, g in scored([(text, begins + "~"), (text, "~")], field="topic", choice="text")]
        assert greedy == [False, False]


def test_lm_eval_makes_a_table_of_choices_and_one_of_answers(home: Path) -> None:
    figures, samples = evaluated(home, "topics", stack="lmtest", field="topic")
    with Engine() as engine:
        said = [engine.run("lmtest", {"text": text}).output for text in TEXTS]
    wanted = scored([(text, topic) for text in TEXTS for topic in TOPICS], field="topic")
    resps = [tuple(resp[0]) for sample in samples for resp in sample["resps"]]
    assert resps == [pytest.approx(one) for one in wanted]
    best = [max(range(3), key=lambda i: wanted[3 * row + i][0]) for row in range(len(TEXTS))]
    assert figures["acc,none"] == sum(b == row % 3 for row, b in enumerate(best)) / len(TEXTS)

    figures, samples = evaluated(home, "says", stack="lmtest", field="topic")
    assert [sample["resps"][0][0] for sample in samples] == [output.topic for output in said]
    right = sum(output.topic == TOPICS[i % 3] for i, output in enumerate(said))
    assert figures["exact_match,none"] == right / len(TEXTS)


def test_what_a_run_says_as_text(home: Path) -> None:
    with Engine() as engine:
        verdict = engine.run("lmtest", {"text": "two words"}).output
        said = engine.run("lmtest.parrot", {"text": "two words"}).output.said
    assert generated([("two words", {})], field="words") == ["2"]
    assert generated([("two words", {})]) == [verdict.model_dump_json()]
    assert generated([("two words", {"until": None})], stack="lmtest.parrot") == [said]
    topic = verdict.topic
    for until in (["~", topic[3:], topic[2:4], ""], topic[2:4]):
        assert generated([("two words", {"until": until})] * 2, field="topic") == [topic[:2]] * 2


def test_a_context_may_be_the_input_as_json(home: Path) -> None:
    pair = json.dumps({"question": "Where is", "choices": ["it", "he"]})
    (said,) = generated([(f" {pair}\n", {})], stack="lmtest.asked")
    with Engine() as engine:
        assert said == engine.run("lmtest.asked", json.loads(pair)).output.topic
    assert scored([(pair, said)], stack="lmtest.asked")[0][1]
    note = PluginHost(settings.default()).stack("lmtest")
    assert Contexts(note).read('{"text": "hi"}') == {"text": "hi"}
    assert Contexts(note, "text").read('{"text": "hi"}') == {"text": '{"text": "hi"}'}
    assert Contexts(note).read('{"other": 1}') == {"text": '{"other": 1}'}


@pytest.mark.parametrize(
    ("arguments", "asked", "kind", "words"),
    [
        ({"stack": "lmtset"}, [], UnknownNameError, "lmtest"),
        ({"field": "topics"}, [], UsageError, "topic, answer, words"),
        ({"input": "txt"}, [], UsageError, "input"),
        ({"colour": "red"}, [], UsageError, "colour"),
        ({"chains": 0}, [], UsageError, "chains"),
        ({"base": "smollm2-135m"}, [], UsageError, "control"),
        ({}, [("hi", "ORDER")], UsageError, "field=FIELD"),
        ({"field": "words"}, [("hi", "3")], UsageError, "the tool lmtest.words"),
        ({"field": "topic"}, [("hi", "PURCHASE")], InputError, '"ORDER","REFUND","CANCEL"'),
        ({"field": "topic", "chains": 3}, [("hi", "ORDER")], UsageError, "would be the same"),
        ({"field": "topic"}, [("hi " * 600, "ORDER")], ContextOverflowError, "does not fit"),
        ({"stack": "lmtest.asked"}, [("hi", "ORDER")], InputError, "tojson"),
        ({"stack": "lmtest.asked"}, [('{"question":"","choices":[]}', "ORDER")], StageFailedError, "no question"),
    ],
)
def test_what_cannot_be_scored_is_told(
    home: Path, arguments: dict[str, Any], asked: list[tuple[str, str]], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        scored(asked, **arguments)
    assert words in str(caught.value) and "next:" in str(caught.value)


def test_a_failure_may_be_counted_as_wrong(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = ('{"question":"%s","choices":[]}' % question for question in ("", "what"))  # noqa: UP031
    asked = [(context, topic) for context in (bad, good) for topic in TOPICS]
    found = scored(asked, stack="lmtest.asked", failures="count")
    assert found[:3] == [(-math.inf, False)] * 3 and all(math.isfinite(score) for score, _ in found[3:])
    assert "no question" in caplog.text
    said = generated([(bad, {}), (good, {})], stack="lmtest.asked", failures="count")
    assert said[0] == "" and said[1] in TOPICS


def test_a_backend_that_cannot_score_is_told_before_anything_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2

    served = {"data": [{"id": "lmtest.topic"}, {"id": "lmtest.reply"}]}
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        return httpx2.Response(200, json=served)

    monkeypatch.setattr(
        "fslm_core.backends.openai.OpenAIBackend._new_client",
        lambda backend: httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://server/v1"),
    )
    monkeypatch.setenv("FSLM_BACKEND", "openai")
    settings.default.cache_clear()
    with pytest.raises(CapabilityError, match="cannot score"):
        scored([("hi", "ORDER")], field="topic")
    assert set(sent) == {"/v1/models"}


def test_perplexity_and_chat_templates_are_not_for_stacks(home: Path) -> None:
    model = StackLM(stack="lmtest")
    with pytest.raises(UsageError, match="control=base"):
        model.loglikelihood_rolling([])
    with pytest.raises(UsageError, match="render their own prompts"):
        model.apply_chat_template([])
    with pytest.raises(UsageError, match="render their own prompts"):
        _ = model.tokenizer_name
    with pytest.raises(UsageError, match="create_from_arg_obj"):
        StackLM(stack="lmtest", control="base")


def test_the_control_is_the_base_without_adapter_and_template(home: Path, tiny_model: Callable[..., Path]) -> None:
    register()
    control = StackLM.create_from_arg_string("stack=lmtest,control=base", {"device": "cpu", "batch_size": 2})
    assert isinstance(control, LM)
    plain = Reference(tiny_model(), None)
    asked = [(text, f" {topic}") for text in TEXTS for topic in TOPICS]
    found = control.loglikelihood([Asked(*pair) for pair in asked], disable_tqdm=True)
    for (text, choice), (score, _) in zip(asked, found, strict=True):
        ids, start = plain.ids(text + choice), plain.ids(text)
        with torch.inference_mode():
            logprobs = torch.log_softmax(plain.model(torch.tensor([ids])).logits[0].float(), dim=-1)
        wanted = sum(float(logprobs[place - 1, ids[place]]) for place in range(len(start), len(ids)))
        assert score == pytest.approx(wanted, abs=1e-3)
    (rolled,) = control.loglikelihood_rolling([Asked(TEXTS[0])], disable_tqdm=True)
    assert rolled < 0
    with pytest.raises(UsageError, match="chains"):
        StackLM.create_from_arg_string("stack=lmtest,control=base,chains=3")
    with pytest.raises(UnknownNameError):
        StackLM.create_from_arg_string(f"stack=lmtset,control=base,base={tiny_model()}")


def test_the_engine_scores_texts(home: Path) -> None:
    with Engine() as engine:
        run = engine.run("lmtest", {"text": "hi"})
        prompt = run.messages["topic"].attempts[-1].prompt
        text = json.dumps({"topic": run.output.topic}, separators=(",", ":"))
        (likely,) = engine.score("lmtest", "topic", prompt, [text])
        assert likely.logprob < 0 and likely.greedy is None
        assert engine.score("lmtest", "topic", prompt, [], greedy=True) == ()
        with pytest.raises(UnknownNameError):
            engine.score("lmtest", "topics", prompt, [text])
        with pytest.raises(UsageError, match="only what a model writes"):
            engine.score("lmtest", "words", prompt, [text])


def test_the_entry_point_names_the_model() -> None:
    metadata = Path(fslm_core.__file__).parents[1] / "pyproject.toml"
    if metadata.exists():
        named = tomllib.loads(metadata.read_text("utf-8"))["project"]["entry-points"]["lm_eval.models"]["fslm"]
    else:  # a wheel is what is tested
        (found,) = entry_points(group="lm_eval.models", name="fslm")
        named = found.value
    assert EntryPoint("fslm", named, "lm_eval.models").load() is StackLM and issubclass(StackLM, LM)


def test_the_command_line_of_lm_eval_knows_the_model(home: Path) -> None:
    command = [sys.executable, "-m", "fslm_core.evaluate.lm_eval", "run", "--model", "fslm", "--include_path"]
    more = [str(home / "tasks"), "--tasks", "topics", "--output_path", str(home / "out"), "--log_samples"]
    done = subprocess.run(
        [*command, *more, "--model_args", "stack=lmtest,field=topic"], capture_output=True, text=True, cwd=home
    )
    assert done.returncode == 0, done.stderr
    assert "|topics|" in done.stdout.replace(" ", "")
    (results,) = (home / "out").rglob("results_*.json")
    told = json.loads(results.read_text())["config"]["fslm"]
    assert (told["stack"], told["field"], told["choice"], told["seed"]) == ("lmtest", "topic", "json", 0)

    done = subprocess.run([*command, *more, "--model_args", "stack=lmtset"], capture_output=True, text=True, cwd=home)
    assert done.returncode == 2
    assert "there is no stack named 'lmtset'" in done.stderr and "Traceback" not in done.stderr
