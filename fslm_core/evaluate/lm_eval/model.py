"""The model ``fslm`` as lm-eval sees it. Importing this imports lm-eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from ... import __version__
from ...errors import UsageError
from ...plugins import PluginHost
from ...settings import default
from .asking import Asker, Choices, Likelihoods, Question
from .control import control_of
from .options import Options, read


class StackLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """A stack, evaluated by lm-eval.

    Args:
        arguments: see :class:`.options.Options`; without a control, which :meth:`create_from_arg_obj` makes.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self._options = _without_control(read(arguments))
        settings = default()
        self._asker = Asker(self._options, settings, PluginHost(settings))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> LM:
        """The model of ``--model_args`` as text."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> LM:
        """The model of arguments by name: the stack, or the control that they ask for."""
        more = {name: value for name, value in (additional_config or {}).items() if value is not None}
        options = read({**more, **arg_dict})
        return cls(**options.model_dump(exclude_unset=True)) if options.control is None else control_of(options)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the stack says to each context."""
        asked, seen = [], Counter[str]()
        for context, keywords in (request.args for request in requests):
            asked.append(Question(context, _until(keywords), seen[context]))
            seen[context] += 1
        left = iter(requests)
        with tqdm(total=len(asked), desc=f"Running {self._asker.stack.name}", disable=disable_tqdm) as bar:

            def done(text: str) -> None:
                self.cache_hook.add_partial("generate_until", next(left).args, text)
                bar.update()

            return self._asker.texts(asked, done)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """How likely the final stage is to write each choice; the contexts' choices are scored together."""
        by_context: dict[str, dict[str, None]] = {}
        for context, choice in (request.args for request in requests):
            by_context.setdefault(context, {})[choice] = None
        asked = [Choices(context, tuple(choices)) for context, choices in by_context.items()]
        left = iter(asked)
        with tqdm(total=len(asked), desc=f"Scoring {self._asker.stack.name}", disable=disable_tqdm) as bar:

            def done(found: Likelihoods) -> None:
                context = next(left).context
                for choice, answer in found.items():
                    self.cache_hook.add_partial("loglikelihood", (context, choice), answer)
                bar.update()

            found = dict(zip(by_context, self._asker.likelihoods(asked, done), strict=True))
        return [found[context][choice] for context, choice in (request.args for request in requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refuse: a stack answers, and no step of it has read a text that nobody asked about."""
        raise UsageError(
            "a stack has no likelihood of a text by itself, which perplexity tasks ask for",
            where=f"stack {self._asker.stack.name}",
            found="output_type: loglikelihood_rolling",
            hint="measure the base model, with control=base, or choose a task of choices or of generation",
        )

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Refuse: every stage renders its own prompt."""
        raise self._no_chat()

    @property
    def tokenizer_name(self) -> str:
        """Refuse: lm-eval asks for it where it is to apply a chat template."""
        raise self._no_chat()

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results."""
        idle = {"device", "batch_size", "max_batch_size"}
        return {"fslm_version": __version__, "fslm": self._options.model_dump(exclude_none=True, exclude=idle)}

    def _no_chat(self) -> UsageError:
        return UsageError(
            "the stages of a stack render their own prompts",
            where=f"stack {self._asker.stack.name}",
            found="--apply_chat_template",
            hint="leave it out",
        )


def _without_control(options: Options) -> Options:
    if options.control is not None:
        raise UsageError(
            "the control is no stack",
            where="StackLM(…)",
            found=f"control={options.control}",
            hint="make it with StackLM.create_from_arg_obj({…}), as lm-eval does",
        )
    return options


def _until(keywords: Mapping[str, Any]) -> Sequence[str]:
    until = keywords.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until)


__all__ = ["StackLM"]
