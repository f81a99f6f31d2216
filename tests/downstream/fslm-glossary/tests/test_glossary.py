import json
import subprocess
import sys

import pytest
from fslm_glossary import plugin

from fslm_core import Engine, PluginHost, Settings
from fslm_core.errors import RunFailed


def fslm(*args):
    return subprocess.run([sys.executable, "-m", "fslm_core", *args], capture_output=True, text=True, check=True).stdout


def test_the_wheel_is_installed_not_the_source():
    assert "site-packages" in plugin.__file__


def test_it_is_found_and_loaded():
    (info,) = (i for i in PluginHost(Settings()).plugins if i.name == "glossary")
    assert (info.distribution, info.version, info.state) == ("fslm-glossary", "1.4.2", "loaded"), info.reason


def test_words_are_replaced():
    with Engine(stacks=["glossary"], trace=False) as engine:
        output = engine.run("glossary", {"text": "The invoice, after an escalation"}).output
    assert output.text == "The bill, after an hand-over"
    assert output.replaced == ["invoice", "escalation"]


def test_a_check_of_the_first_interface_still_refuses():
    with Engine(stacks=["glossary"], trace=False) as engine, pytest.raises(RunFailed) as failed:
        engine.run("glossary", {"text": "FORBIDDEN"})
    assert "the glossary does not allow that word" in str(failed.value)


def test_its_observer_sees_the_run():
    with Engine(stacks=["glossary"], trace=False) as engine:
        engine.run("glossary", {"text": "hello"})
    assert {"RunStarted", "MessageEmitted", "RunFinished"} <= set(plugin.seen)


def test_it_works_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FSLM_DATA_DIR", str(tmp_path))
    assert json.loads(fslm("run", "glossary", "an invoice"))["text"] == "an bill"
    assert "invoice: bill" in fslm("glossary-words")
