"""All settings, one typed object: ``fslm.toml`` and ``FSLM_*`` variables.

From weak to strong: the user's ``fslm.toml`` (in the configuration folder of the platform), ``./fslm.toml``,
``FSLM_*`` variables (``FSLM_OFFLINE=1``, ``FSLM_TRACE__CONTENT=none``), arguments of :func:`load`.
``FSLM_CONFIG`` names one file to read in place of both.

>>> load(offline=True, files=()).offline
True
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .errors import SettingsError, shorten

FILE_NAME = "fslm.toml"
Names = Annotated[tuple[str, ...], NoDecode]


def no_nul(value: Any) -> Any:
    """A value as it is, unless it is a path that no file can have.

    Raises:
        ValueError: a path with a NUL character in it.
    """
    if isinstance(value, Path) and "\0" in str(value):
        raise ValueError("a path cannot hold a NUL character")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _paths = field_validator("*")(no_nul)


class TraceSettings(_Section):
    """What is kept of a run.

    ``content`` None leaves the choice to who opens the engine: the command line keeps ``full``, an
    ``Engine()`` in a program ``none`` (shape, scores, times and keyed hashes, but no text).
    """

    path: Path | None = None
    """The database; None is ``trace.db`` in ``data_dir``."""
    content: Literal["full", "redacted", "none"] | None = None
    """How much text is kept; ``redacted`` blanks fields marked sensitive."""
    on_failure: Literal["fail", "continue"] = "fail"
    """Whether a run fails when it cannot be recorded (a full disk, say), or goes on with a warning."""


class SessionSettings(_Section):
    """What is kept of sessions, the states that a stack remembers from run to run.

    A state is kept whole, or it could not be gone on with: ``trace.content`` changes nothing here.
    """

    path: Path | None = None
    """The database; None is ``sessions.db`` beside the trace."""
    keep: bool = True
    """Whether sessions may be kept; where not, a run that names one is refused."""
    keep_days: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Days after its last turn that a session is forgotten; 0 keeps it until someone forgets it."""


class UiSettings(_Section):
    """The page to look at traces, ``fslm ui``."""

    key: SecretStr | None = None
    """What whoever opens the page must know, needed where it listens beyond this machine: ``FSLM_UI__KEY``."""


class TorchSettings(_Section):
    """The in-process backend. ``threads`` 0 lets torch choose; ``device`` is ``cpu`` or ``cuda``."""

    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of one forward; 0 lets torch choose."""
    max_batch: int = Field(default=32, ge=1)
    """At most this many requests share a forward."""
    executor: Literal["auto", "fused", "generic"] = "auto"
    """``fused`` is the fast one, for Llama, Mistral, Qwen2 and Qwen3 decoders; ``generic`` runs any other through
    transformers. ``auto`` takes the fast one where it can."""
    precision: Literal["auto", "bfloat16", "float16", "float32", "int8", "int4"] = "auto"
    """The number format of the weights. ``auto`` loses nothing: bfloat16 where the machine multiplies it quickly,
    else float16 weights with float32 sums. int8 and int4 are faster on some machines and cost a little accuracy;
    they and float16 need the fused executor."""
    cache_mb: int = Field(default=1024, ge=1)
    """MiB that the fused executor may use for keys and values; requests wait while it is full."""


class OpenAISettings(_Section):
    """A server that speaks the OpenAI protocol, such as vLLM. The key is read from ``api_key_env``."""

    base_url: str = "http://127.0.0.1:8000/v1"
    """Where the server is."""
    api_key_env: str = "OPENAI_API_KEY"
    """The variable that holds the key."""
    models: dict[str, str] = {}
    """The served model name for each stage name; a stage not listed is asked for by its own name."""


class StageSettings(_Section):
    """What an operator may replace of a stage without touching its plugin."""

    adapter: Path | None = None
    """A PEFT folder to use in place of the plugin's own."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of its weights, hex; checked on load."""
    variant: str | None = None
    """The name of one of the stage's variants."""
    allow_untrained: bool = False
    """Accept an adapter that was trained for another base or output schema."""
    candidate: Path | None = None
    """A PEFT folder to try beside the stage's own adapter; what it writes is recorded and never returned."""
    candidate_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the candidate's weights, hex; checked on load."""
    shadow: float = Field(default=0.0, ge=0, le=1)
    """The share of the stage's runs that the candidate runs beside, 0 to 1."""

    @field_validator("candidate_sha256", "shadow")
    @classmethod
    def _of_a_candidate(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("candidate") is None:
            raise ValueError("it needs a candidate: the path of a PEFT folder")
        return value


class Settings(BaseSettings):
    """Everything that can be set. Unknown keys are errors."""

    model_config = SettingsConfigDict(
        env_prefix="FSLM_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    offline: bool = False
    """Never reach for a network: what is not in the cache is an error."""
    cache_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("fslm")))
    """Checkpoints."""
    data_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("fslm")))
    """Traces."""
    backend: str = "torch"
    """What writes the outputs of stages."""
    profile: str | None = None
    """Chooses ``Stage(variants=…)`` by name; a stage without that variant runs its own model, and says so."""
    plugins: Names | None = None
    """Only these plugins (entry-point names or distributions) are loaded; None loads all."""
    disable: Names = ()
    """These plugins are never imported."""
    foreign_checks: Names = ()
    """Plugins whose ``fslm_check_message`` also judges the stages of other plugins."""
    trace_hooks: bool = False
    """Print each call of a plugin's hook to standard error: whose it is, how long it took, what came back."""
    locked: bool = False
    """Refuse to run anything that is not as the lock file says; ``fslm lock`` writes that file."""
    lock_file: Path = Path("fslm.lock")
    """The lock file."""
    trace: TraceSettings = TraceSettings()
    sessions: SessionSettings = SessionSettings()
    ui: UiSettings = UiSettings()
    torch: TorchSettings = TorchSettings()
    openai: OpenAISettings = OpenAISettings()
    stages: dict[str, StageSettings] = {}

    _paths = field_validator("*")(no_nul)

    @field_validator("plugins", "disable", "foreign_checks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def trace_path(self) -> Path:
        """The trace database's file."""
        return self.trace.path or self.data_dir / "trace.db"

    @property
    def sessions_path(self) -> Path:
        """The session store's file."""
        return self.sessions.path or self.trace_path.with_name("sessions.db")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = tuple(TomlConfigSettingsSource(settings_cls, toml_file=f) for f in _files_to_read())
        return (init_settings, env_settings, *files)


_chosen_files: ContextVar[Sequence[Path] | None] = ContextVar("chosen_files", default=None)
"""What :func:`load` was given, for the one call that it is given for: threads and tasks do not see each other's."""


def user_file() -> Path:
    """The user's own settings file, whether it exists or not; ``FSLM_CONFIG`` takes its place."""
    named = os.environ.get("FSLM_CONFIG")
    return Path(named) if named else Path(platformdirs.user_config_dir("fslm")) / FILE_NAME


def _files_to_read() -> Sequence[Path]:
    if (chosen := _chosen_files.get()) is not None:
        return chosen
    if os.environ.get("FSLM_CONFIG"):
        return (_there(user_file()),)
    return (Path(FILE_NAME), user_file())


def _there(file: Path) -> Path:
    """A file that was named; one that is not there must not pass for an empty one."""
    if file.is_dir() or not file.exists():
        raise SettingsError(
            "FSLM_CONFIG names a file that is not there",
            where="the variable FSLM_CONFIG",
            found=f"{file}, {'a folder' if file.is_dir() else 'which does not exist'}",
            expected=f"the path of a TOML file such as {FILE_NAME}",
            hint="correct the path, make the file (it may be empty), or unset FSLM_CONFIG",
        )
    return file


def load(*, files: Sequence[Path] | None = None, **overrides: Any) -> Settings:
    """Read files and environment into one :class:`Settings`.

    Args:
        files: read these TOML files, strongest first, instead of the usual ones.
        overrides: fields to set whatever files and environment say.

    Raises:
        SettingsError: a file that is not TOML, an unknown key, a value of the wrong type, a file named by
            ``FSLM_CONFIG`` that is not there.
    """
    known = {f"FSLM_{name}".upper() for name in Settings.model_fields} | {"FSLM_CONFIG"}
    for variable in os.environ:
        if variable.upper().startswith("FSLM_") and variable.upper().split("__")[0] not in known:
            near = difflib.get_close_matches(variable.upper(), sorted(known | _section_variables()), n=1)
            raise SettingsError(
                f"the variable {variable} means nothing to fslm",
                where="the environment",
                expected="one of " + ", ".join(sorted(known)) + ", or a key of a section, as FSLM_TRACE__CONTENT",
                hint=f"did you mean {near[0]}?" if near else f"unset it: `unset {variable}`",
            )
    token = _chosen_files.set(files)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise _wrong(error) from None
    except (ValueError, OSError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise _unreadable(error) from None
    finally:
        _chosen_files.reset(token)


def _wrong(error: ValidationError) -> SettingsError:
    """What is wrong first. A value that may be a secret is not repeated: the name says so, or fslm knows none."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    unknown = first["type"] == "extra_forbidden"
    variable = f"FSLM_{key.upper().replace('.', '__')}"
    known = _keys_beside(first["loc"])
    near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1) if unknown and first["loc"] else []
    return SettingsError(
        f"there is no setting {key!r}" if unknown else f"the setting {key!r} is wrong: {first['msg']}",
        where=_place_of(first["loc"], variable),
        found=None if unknown or _SECRET.search(key) else first.get("input"),
        expected="one of " + ", ".join(known) if unknown else None,
        hint=f"did you mean {near[0]!r}?" if near else "correct or remove it; the page Settings lists all of them",
    )


_SECRET = re.compile("key|token|secret|passw|credential", re.IGNORECASE)


def _section_variables() -> set[str]:
    """The variables of the keys in sections, as ``FSLM_TRACE__CONTENT``."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        f"FSLM_{name}__{key}".upper()
        for name, model in sections.items()
        if isinstance(model, type) and issubclass(model, BaseModel)
        for key in model.model_fields
    }


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that fslm knows in the section that ``loc`` ends in."""
    model: Any = Settings
    for part in loc[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        inner = field.annotation if field else StageSettings
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else StageSettings
    return sorted(model.model_fields)


def _place_of(loc: tuple[int | str, ...], variable: str) -> str:
    """The variable or file that holds the key, as far as can be said."""
    if any(name.upper() == variable for name in os.environ):
        return variable
    for file in _files_to_read():
        held: Any = _tables(file)
        for part in loc:
            held = held.get(str(part)) if isinstance(held, dict) else None
        if held is not None:
            return str(file)
    return "the settings"


def _tables(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _unreadable(error: Exception) -> SettingsError:
    for file in _files_to_read():
        try:
            tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except OSError as refused:
            hint = "give yourself read access, or name another file with FSLM_CONFIG"
            return SettingsError(f"the settings file cannot be read: {refused.strerror}", where=str(file), hint=hint)
        except (ValueError, RecursionError) as malformed:
            hint = 'mend that line: text is written key = "text", a list key = ["a", "b"]'
            return SettingsError(
                f"the settings file cannot be read, it is not TOML: {malformed}", where=str(file), hint=hint
            )
    return SettingsError(
        f"the settings cannot be read: {shorten(str(error))}",
        where="the environment",
        hint="a variable that holds a list or a section is written as JSON",
    )


@cache
def default() -> Settings:
    """The settings of this process, read once."""
    return load()


__all__ = [
    "OpenAISettings",
    "SessionSettings",
    "Settings",
    "StageSettings",
    "TorchSettings",
    "TraceSettings",
    "UiSettings",
    "default",
    "load",
    "user_file",
]
