"""Checkpoint folders and adapters as GGUF files, for llama.cpp. Needs the ``gguf`` package.

Quantised files keep what the checkpoint's own 4-bit file does: the embedding, which is also the head, in Q8_0, norms
in F32. In a Q4_1 file every matrix that the adapter leaves alone is copied from that file bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.peers import weights
from tests.bench.peers.weights import Floats

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_CONTROL, _NORMAL = 3, 1


def name_of(name: str) -> str:
    """Return GGUF's name of a tensor.

    >>> name_of("model.layers.3.self_attn.q_proj.weight")
    'blk.3.attn_q.weight'
    """
    if name in _WHOLE:
        return _WHOLE[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _turned(name: str, matrix: Floats, config: dict[str, Any]) -> Floats:
    """Rows of q and k in llama.cpp's order for rotary positions; ``matrix`` is [heads * size, anything]."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for word, count in heads.items():
        if word in name:
            n, (rows, columns) = config[count], matrix.shape
            return matrix.reshape(n, 2, rows // n // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return matrix


def model(base: Path, adapter: Path | None, kind: str, original: Path | None, work_dir: Path) -> Path:
    """Return a GGUF of base and adapter merged, made on first use; ``kind`` is f32, f16, bf16, q8_0, q4_0 or q4_1."""
    if adapter is None and kind == "q4_1" and original is not None:
        return original
    place = work_dir / f"model-{kind}-{weights.key(base, adapter)}.gguf"
    return weights.once(place, lambda path: _write_model(path, base, adapter, kind, original))


def _write_model(path: Path, base: Path, adapter: Path | None, kind: str, original: Path | None) -> None:
    import gguf

    config = weights.config(base)
    tensors, changed = weights.merged(base, adapter)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, config)
    _add_tokenizer(writer, base, config)
    kept = _blocks(original) if original and kind == "q4_1" else {}
    for name, tensor in tensors.items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        new = name_of(name)
        if new in kept and name not in changed:
            data, form = kept[new]
            writer.add_tensor(new, data, raw_dtype=form)
        else:
            form = _form(new, tensor, kind)
            data = gguf.quants.quantize(np.ascontiguousarray(_turned(name, tensor, config)), form)
            writer.add_tensor(new, data, raw_dtype=form)
    _finish(writer)


def _form(name: str, tensor: Floats, kind: str) -> Any:
    import gguf

    types = gguf.GGMLQuantizationType
    if tensor.ndim == 1:
        return types.F32
    if kind.startswith("q4") and name in ("token_embd.weight", "output.weight"):
        return types.Q8_0
    return types[kind.upper()]


def _blocks(original: Path) -> dict[str, tuple[Any, Any]]:
    import gguf

    return {t.name: (t.data, t.tensor_type) for t in gguf.GGUFReader(original).tensors}


def _describe(writer: Any, config: dict[str, Any]) -> None:
    rope = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    heads = config["num_attention_heads"]
    writer.add_name("merged")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: Any, base: Path, config: dict[str, Any]) -> None:
    """The byte-level BPE of ``tokenizer.json``; prompts come as ids, so it only turns answers to text."""
    data = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    for token, index in data["model"]["vocab"].items():
        tokens[index] = token
    kinds = [_NORMAL] * len(tokens)
    for added in data["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _NORMAL
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    ends = config["eos_token_id"]
    writer.add_eos_token_id(ends if isinstance(ends, int) else ends[0])
    if isinstance(config.get("bos_token_id"), int):
        writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)


def adapter(base: Path, folder: Path, work_dir: Path) -> Path:
    """Return a PEFT adapter as a GGUF of F16 matrices, made on first use."""

    def make(path: Path) -> None:
        import gguf

        config = weights.config(base)
        pairs, scale = weights.lora(folder)
        rank = next(iter(pairs.values()))[0].shape[0]
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, scale * rank)
        for name, tensor in _parts(pairs, config):
            writer.add_tensor(name, tensor.astype(np.float16))
        _finish(writer)

    return weights.once(work_dir / f"adapter-{weights.key(base, folder)}.gguf", make)


def _parts(pairs: dict[str, tuple[Floats, Floats]], config: dict[str, Any]) -> Iterator[tuple[str, Floats]]:
    for name, (a, b) in pairs.items():
        yield f"{name_of(name)}.lora_a", a
        yield f"{name_of(name)}.lora_b", _turned(name, b, config)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


__all__ = ["adapter", "model", "name_of"]
