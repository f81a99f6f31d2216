"""Folders are put in their place whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from fslm_core.folders import put_file, put_whole


def _texts(folder: Path) -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in found}


def test_files_stand_as_they_were_given_and_replace_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    put_whole(out, {"old.txt": "old"})
    put_whole(out, {"a.txt": "é\n", "plots/b.svg": "<svg>\r\n"})
    assert _texts(out).keys() == {"a.txt", "plots/b.svg"}
    assert (out / "plots" / "b.svg").read_bytes() == b"<svg>\r\n"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_was_there_stays_where_the_move_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    put_whole(out, {"a.txt": "before"})
    usual = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if target == out and "-old-" not in self.name:
            raise OSError(28, "No space left on device")
        return usual(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="No space"):
        put_whole(out, {"a.txt": "after"})
    assert _texts(tmp_path) == {"out/a.txt": "before"}


def test_the_folder_of_the_program_itself_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (Path("."), Path("..")):
        with pytest.raises(OSError, match="runs in"):
            put_whole(place, {"a.txt": "a"})
    assert _texts(tmp_path) == {}


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.lock"
    put_file(path, "é\n")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    put_file(path, "after\r\n")
    assert path.read_bytes() == b"after\r\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["a.lock"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.lock"
    put_file(path, "before")

    def refusing(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refusing)
    with pytest.raises(OSError, match="No space"):
        put_file(path, "after")
    assert _texts(tmp_path) == {"a.lock": "before"}
