"""Local folders and repositories of the Hub: what is accepted, and what is refused and why."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from fslm_core.checkpoints import Checkpoint, Folder, HubRepo, resolve, verify
from fslm_core.errors import CheckpointCorruptError, CheckpointError, CheckpointUnavailableError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_used_where_it_lies(tiny_folder, settings):
    found = resolve(str(tiny_folder), settings)
    assert (found.path, found.context_length) == (tiny_folder, 77)
    assert verify(str(tiny_folder), settings) == found
    assert not settings.cache_dir.exists()


def test_a_changed_folder_has_another_digest(tiny_folder, settings):
    before = resolve(str(tiny_folder), settings)
    (tiny_folder / "tokenizer.json").write_text('{"version": "1.0"}')
    after = resolve(str(tiny_folder), settings)
    assert before.sha256 != after.sha256 and before.tokenizer_sha256 != after.tokenizer_sha256
    with pytest.raises(CheckpointCorruptError, match="not the one that is meant"):
        resolve(Checkpoint("mine", Folder(tiny_folder), sha256=before.sha256), settings)


def test_what_does_not_count_changes_no_digest(tiny_folder, settings):
    before = resolve(str(tiny_folder), settings)
    (tiny_folder / "README.md").write_text("hello")
    assert resolve(str(tiny_folder), settings).sha256 == before.sha256


def test_no_folder(settings, tmp_path):
    with pytest.raises(CheckpointUnavailableError, match="no folder"):
        resolve(str(tmp_path / "nothing"), settings)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused(tiny_folder, settings, name):
    (tiny_folder / "model.safetensors").rename(tiny_folder / name)
    with pytest.raises(CheckpointError, match="pickled weights only") as caught:
        resolve(str(tiny_folder), settings)
    assert caught.value.found == name


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "an adapter"),
    ],
)
def test_a_folder_that_is_no_checkpoint(tiny_folder, settings, harm, said):
    harm(tiny_folder)
    with pytest.raises(CheckpointError, match=said):
        resolve(str(tiny_folder), settings)


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_weights_cut_short(tiny_folder, settings, kept):
    weights = tiny_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CheckpointCorruptError, match=r"model\.safetensors"):
        resolve(str(tiny_folder), settings)


def test_a_missing_shard(tiny_folder, settings):
    index = {"weight_map": {"w": "model.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointCorruptError, match="model-00002-of-00002"):
        resolve(str(tiny_folder), settings)


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_config_that_cannot_be_read(tiny_folder, settings, content):
    (tiny_folder / "config.json").write_text(content)
    with pytest.raises(CheckpointCorruptError, match=r"config\.json"):
        resolve(str(tiny_folder), settings)


@pytest.fixture
def hub(tiny_folder, monkeypatch):
    """A Hub with one repository, the tiny folder; ``hub.calls`` says what was asked of it."""
    state = SimpleNamespace(calls=[], error=None)

    def snapshot_download(repo_id, *, revision, local_dir, allow_patterns, ignore_patterns):
        state.calls.append((repo_id, revision))
        if state.error:
            raise state.error
        for file in tiny_folder.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local_dir)
        (local_dir / ".cache/huggingface").mkdir(parents=True)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    return state


def test_a_repository_at_its_commit(hub, tiny_folder, settings):
    (tiny_folder / "pytorch_model.bin").write_text("")
    (tiny_folder / "modeling_tiny.py").write_text("raise SystemExit")
    name = f"hf:owner/tiny@{COMMIT}"
    found = resolve(name, settings)
    assert hub.calls == [("owner/tiny", COMMIT)]
    names = {"config.json", "fslm-checkpoint.json", "model.safetensors", "tokenizer.json"}
    assert {entry.name for entry in found.path.iterdir()} == names
    assert resolve(name, settings.model_copy(update={"offline": True})) == found
    assert len(hub.calls) == 1


def test_a_repository_with_pickles_only(hub, tiny_folder, settings):
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no weights"):
        resolve(f"hf:owner/tiny@{COMMIT}", settings)


def test_the_files_of_a_repository_may_be_pinned(hub, tiny_folder, settings):
    right = hashlib.sha256((tiny_folder / "model.safetensors").read_bytes()).hexdigest()
    resolve(Checkpoint("right", HubRepo("o/n", COMMIT, (("model.safetensors", right),))), settings)
    with pytest.raises(CheckpointCorruptError, match="not the one that is meant"):
        resolve(Checkpoint("wrong", HubRepo("o/n", COMMIT, (("model.safetensors", "0" * 64),))), settings)
    with pytest.raises(CheckpointCorruptError, match=r"no file vocab\.txt"):
        resolve(Checkpoint("more", HubRepo("o/n", COMMIT, (("vocab.txt", right),))), settings)


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("no such revision")])
def test_a_hub_that_cannot_be_reached(hub, settings, error):
    hub.error = error
    with pytest.raises(CheckpointUnavailableError, match="--from DIR"):
        resolve(f"hf:owner/tiny@{COMMIT}", settings)


def test_a_repository_offline_and_from_a_folder(hub, tiny_folder, settings):
    offline = settings.model_copy(update={"offline": True})
    with pytest.raises(CheckpointUnavailableError, match="--from DIR"):
        resolve(f"hf:owner/tiny@{COMMIT}", offline)
    assert resolve(f"hf:owner/tiny@{COMMIT}", offline, source_dir=tiny_folder).context_length == 77
    assert hub.calls == []
