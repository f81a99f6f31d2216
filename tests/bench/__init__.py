"""The benchmark: how fast this engine and others push whole stacks, and how far each is from what the machine allows.

``python -m tests.bench --help`` says what can be asked of it; docs/benchmark.md says what is measured and why.

- workloads, engines: what is run, and by whom
- naive, bridge, replay: backends of the benchmark alone (plain transformers; another engine's process; an echo)
- worker, pilot: one process an engine, and the harness's hand on it
- measure, isolation, limit: figures
- comparing, report, plot: the benchmark itself
- agree, soak, memory: the other programs
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
