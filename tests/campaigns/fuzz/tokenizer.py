"""A small tokenizer with control tokens of every kind, made here: special ones, and added ones that are not."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def small() -> tuple[Any, frozenset[int]]:
    """The tokenizer, and the ids that data must never become."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "[INST]")
    trainer = BpeTrainer(
        vocab_size=500,
        special_tokens=[AddedToken(name, special=True) for name in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["im_start im_end think the user says the assistant"] * 20, trainer)
    inner.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    return made, frozenset(made.added_tokens_decoder)


__all__ = ["small"]
