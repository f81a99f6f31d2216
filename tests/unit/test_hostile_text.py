"""Text from anybody: shown and written, never obeyed, whatever Unicode has in it."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest

from fslm_core.cli import screen
from fslm_core.errors import InputError
from fslm_core.explain.show import visible
from fslm_core.serve import source
from fslm_core.serve.estimate import sample_of
from fslm_core.serve.inputs import MAX_INPUT, MAX_VALUES, decode, parse

from ..campaigns.fuzz.texts import Odd

JOINERS = "\u200c\u200d"
ACTING = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and chr(code) not in JOINERS
]


def test_every_character_that_acts_or_hides_is_spelt_out() -> None:
    assert len(ACTING) > 2000
    for character in ACTING:
        shown = json.loads(f'"{screen.as_json(character)[1:-1]}"')
        assert shown == character
        assert screen.as_json(character)[1] == "\\" and screen.as_json(character).isascii()
        if character != "\n":
            assert screen.clean(character)[0] == "\\"
        if character not in "\n\t":
            assert visible(character)[0] == "\\"


def test_letters_of_every_script_stay_as_they_are() -> None:
    text = "straße Ελληνικά हिन्दी فارسی 中文 👩\u200d🔬 می\u200cخواهم"  # noqa: RUF001
    assert screen.clean(text) == visible(text) == json.loads(screen.as_json(text)) == text
    assert screen.as_json(text) == f'"{text}"'


def test_a_name_given_twice_is_found_in_one_passage() -> None:
    names = ",".join(f'"{i}":1' for i in range(200_000))
    with pytest.raises(InputError, match="'199999' stands twice"):  # looking for it name by name takes hours
        parse(f'{{{names},"199999":1}}', Odd, where="here")


def test_a_long_name_given_twice_is_not_repeated_whole() -> None:
    name = "x" * 1_000_000
    with pytest.raises(InputError) as caught:
        parse(f'{{"{name}":1,"{name}":1}}', Odd, where="here")
    assert len(str(caught.value)) < 1000


def test_an_input_has_a_largest_size() -> None:
    with pytest.raises(InputError, match="too large") as caught:
        decode(bytes(MAX_INPUT + 1), where="here")
    assert caught.value.expected == "at most 16 MiB"
    assert decode(b"a" * 10_000_000, where="here") == "a" * 10_000_000


def test_an_input_holds_so_many_values() -> None:
    """Pydantic tells what is wrong with each: five million wrong ones take two gigabytes."""
    few = ",".join(["1"] * (MAX_VALUES - 2))
    assert len(parse(f'{{"count":[{few}],"number":"1"}}', Odd, where="here")["count"]) == MAX_VALUES - 2
    with pytest.raises(InputError, match="too many values"):
        parse(f'{{"count":[{few},1],"number":"1"}}', Odd, where="here")


def test_a_line_without_end_is_kept_only_as_far_as_shows_that_it_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_MOST", 3_000_001)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"a\n" + b"x" * 7_000_000 + b"\nb\n" + b"y" * 3_000_000 + b"\n" + b"z" * 9_000_000)
    wanted = [(2, b"a"), (3_000_001, b"x"), (2, b"b"), (3_000_001, b"y"), (3_000_001, b"z")]
    with file.open("rb") as opened:
        assert [(len(line), line[:1]) for line in source.bounded_lines(opened)] == wanted
        opened.seek(0)
        piped = [line for line in source._lines_of(opened.fileno())]
    assert [(min(len(line) + 1, 3_000_001), line[:1]) for line in piped] == wanted
    rows, sample = sample_of(file)
    assert rows == 5 and [(len(line), line[:1]) for line in sample] == wanted
