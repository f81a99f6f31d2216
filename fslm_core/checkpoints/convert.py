"""Write a Llama-family GGUF as a folder in the format of transformers: bfloat16 safetensors, tokenizer, template.

transformers can load a GGUF itself, but holds the whole model in memory and takes many times longer than
going through it slice by slice; the tensors are equal bit by bit. Its tokenizer also forgets that some
vocabularies split every digit off before merging, which llama.cpp does and which the model was trained with.

Nothing in what is written depends on the version of a library, so the same GGUF gives the same bytes
everywhere and their digest can be known beforehand.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, shorten
from .gguf import GGUF, Tensor
from .progress import Progress, silent

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BEFORE_MERGING = {
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTES]},
    "gpt-2": _BYTES,
}
"""llama.cpp's name of how text is cut before merging, and the same for the tokenizers library."""
_CONTROL, _USER_DEFINED = 3, 4


def convert(gguf: Path, folder: Path, progress: Progress = silent) -> None:
    """Write the GGUF at ``gguf`` into the existing, empty ``folder``.

    Raises:
        CheckpointCorruptError: the file ends too soon or is no GGUF.
        CheckpointError: a model or tokenizer of a family that is not converted here.
    """
    with GGUF(gguf) as source:
        try:
            config = _config(source)
            _write_json(folder / "config.json", config)
            _write_json(folder / "generation_config.json", {k: v for k, v in config.items() if k.endswith("_token_id")})
            _write_tokenizer(source, folder)
            _write_tensors(source, config, folder / "model.safetensors", progress)
        except KeyError as error:
            raise _unsupported(source, "header", f"no {error.args[0]}", "what a Llama decoder needs") from None
        except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            raise _unsupported(source, "header", shorten(str(error)), "what a Llama decoder needs") from None


def _config(source: GGUF) -> dict[str, Any]:
    known = source.metadata
    if known.get("general.architecture") != "llama" or known.get("llama.expert_count"):
        raise _unsupported(source, "architecture", known.get("general.architecture"), "llama, without experts")
    if known.get("llama.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in source.tensors:
        raise _unsupported(source, "rotary embedding", known.get("llama.rope.scaling.type"), "one without scaling")
    heads = known["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": source.tensors["token_embd.weight"].shape[0],
        "hidden_size": known["llama.embedding_length"],
        "intermediate_size": known["llama.feed_forward_length"],
        "num_hidden_layers": known["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": known.get("llama.attention.head_count_kv", heads),
        "head_dim": known.get("llama.rope.dimension_count", known["llama.embedding_length"] // heads),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": known["llama.context_length"],
        "rms_norm_eps": known["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": known.get("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "bos_token_id": known.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": known.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": known.get("tokenizer.ggml.padding_token_id"),
    }


def _write_tokenizer(source: GGUF, folder: Path) -> None:
    known = source.metadata
    before = _BEFORE_MERGING.get(known.get("tokenizer.ggml.pre", ""))
    if known.get("tokenizer.ggml.model") != "gpt2" or before is None:
        found = f"{known.get('tokenizer.ggml.model')}, cut by {known.get('tokenizer.ggml.pre')}"
        raise _unsupported(source, "tokenizer", found, "gpt2, cut by " + " or ".join(_BEFORE_MERGING))
    tokens: list[str] = known["tokenizer.ggml.tokens"]
    kinds: list[int] = known.get("tokenizer.ggml.token_type", [])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise _unsupported(source, "tokenizer", "a token that occurs twice", "every token once")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(i, tokens[i], kind == _CONTROL) for i, kind in enumerate(kinds) if kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": before,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": known["tokenizer.ggml.merges"],
        },
    }
    _write_json(folder / "tokenizer.json", tokenizer, indent=None)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(known, tokens))
    if template := known.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_bytes(template.encode())


def _added(index: int, token: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": token, **flags, "special": special}


def _tokenizer_config(known: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    ids = {name: known.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{name: tokens[i] for name, i in ids.items() if i is not None},
    }


_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _write_tensors(source: GGUF, config: dict[str, Any], path: Path, progress: Progress) -> None:
    """Write one safetensors file: a length, a JSON header, the tensors one after another.

    The format: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in source.tensors.values():
        start, end = end, end + 2 * _count(tensor)
        name = _name(source, tensor)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in source.tensors.values():
            for numbers in source.slices(tensor, heads=_heads(tensor, config)):
                file.write(numbers.data)
                done += numbers.nbytes
                progress("converting", done, end)


def _count(tensor: Tensor) -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count


def _name(source: GGUF, tensor: Tensor) -> str:
    block, _, rest = tensor.name.partition(".")
    number, _, part = rest.partition(".")
    if block == "blk" and part in _LAYER_NAMES:
        return f"model.layers.{number}.{_LAYER_NAMES[part]}"
    if tensor.name in _NAMES:
        return _NAMES[tensor.name]
    raise _unsupported(source, "tensor", tensor.name, "the tensors of a Llama decoder without biases")


def _heads(tensor: Tensor, config: dict[str, Any]) -> int | None:
    if tensor.name.endswith(".attn_q.weight"):
        return int(config["num_attention_heads"])
    if tensor.name.endswith(".attn_k.weight"):
        return int(config["num_key_value_heads"])
    return None


def _write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    path.write_bytes((json.dumps(data, indent=indent, ensure_ascii=False) + "\n").encode())


def _unsupported(source: GGUF, what: str, found: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"fslm does not convert a GGUF with this {what}",
        where=source.path.name,
        found=found,
        expected=expected,
        hint="save the model as a safetensors folder with transformers and name that folder",
    )


__all__ = ["convert"]
