"""A batch's input: what comes of a pipe when the batch has ended is nobody's."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings

import pytest

from fslm_core.serve import source


async def _begun(descriptor: int) -> threading.Thread:
    """Read one line; the thread that reads the rest."""
    assert await anext(source._piped(descriptor)) == b"a"
    (pump,) = [thread for thread in threading.enumerate() if thread.name == "fslm-input"]
    return pump


@pytest.mark.parametrize("lines", [1000, 1], ids=["it waits to hand over", "it waits to read"])
def test_who_stops_reading_a_pipe_hears_no_more_of_it(monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    end, writer = os.pipe()
    os.write(writer, b"a\n" * lines)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pump = asyncio.run(_begun(end))
        os.write(writer, b"b\n")
        pump.join(60)
    assert not pump.is_alive() and raised == [] and [str(warning.message) for warning in said] == []
    os.close(writer)
    os.close(end)
