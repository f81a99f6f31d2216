"""Fixtures that several test files share, and what the marker ``torch`` means."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

NO_TORCH = importlib.util.find_spec("torch") is None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave aside, where torch is not installed, whole files that are marked ``torch``: they import it."""
    if NO_TORCH and collection_path.suffix == ".py" and "\npytestmark = pytest.mark.torch\n" in collection_path.read_text("utf-8"):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the base model needs torch."""
    for item in items:
        if "base_model" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.torch)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Settings and traces of the user who runs the tests are neither read nor written; downloaded models are shared."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        yield


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The folder of the built-in base model, in the user's own cache: it is downloaded once a machine."""
    from fslm_core import settings
    from fslm_core.checkpoints import resolve

    return resolve("smollm2-135m", settings.load()).path
