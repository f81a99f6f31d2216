"""``python -m tests.bench.peers``: name, install and try other engines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import PEERS, environments
from .install import install_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the peers, their arms, whether they are installed").set_defaults(run=_list)
    install = verbs.add_parser("install", help="make an environment for each peer, or for those named")
    install.add_argument("peers", nargs="*", metavar="PEER", choices=[[], *PEERS])
    install.set_defaults(run=_install)
    trial = verbs.add_parser("try", help="a few rows of the support stack through one arm")
    trial.add_argument("peer", choices=PEERS)
    trial.add_argument("arm", nargs="+")
    trial.add_argument("--data", type=Path, required=True, help="JSON lines with a `text`")
    trial.add_argument("--gguf", type=Path, help="the 4-bit file the base was made of")
    trial.add_argument("--work", type=Path, required=True, help="where converted weights are kept")
    trial.add_argument("--rows", type=int, default=12)
    trial.add_argument("--many", type=int, default=0, help="so many rows more, 32 at a time")
    trial.add_argument(
        "--threads", type=int, default=2, help="1 on a busy machine: engines wait for each other by spinning"
    )
    trial.set_defaults(run=_try)
    for verb in (*verbs.choices.values(),):
        verb.add_argument("--dir", type=Path, default=environments(), help="where the environments are")
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


def _list(arguments: argparse.Namespace) -> int:
    for name, peer in PEERS.items():
        there = "installed" if peer.installed(arguments.dir) else "not installed"
        print(f"{name}: {peer.title} ({there})\n    {', '.join(peer.arms)}")
    return 0


def _install(arguments: argparse.Namespace) -> int:
    failed = install_all([PEERS[name] for name in arguments.peers or PEERS], arguments.dir)
    print(f"{len(arguments.peers or PEERS) - len(failed)} installed in {arguments.dir}", file=sys.stderr)
    return 1 if failed else 0


def _try(arguments: argparse.Namespace) -> int:
    from .trial import trial

    for arm in arguments.arm:
        facts = trial(
            PEERS[arguments.peer], arguments.dir, arm, arguments.data, arguments.work, arguments.gguf,
            arguments.rows, arguments.many, arguments.threads,
        )  # fmt: skip
        print(json.dumps(facts, indent=1, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
