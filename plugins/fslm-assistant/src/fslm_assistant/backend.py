"""The services behind the assistant: recorded calls, or the rows of a catalogue.

The catalogue is the one in this package, three invented services of an invented town, or the file that the variable
``FSLM_ASSISTANT_CATALOGUE`` names: JSON of the same form.
"""

from __future__ import annotations

import os
from datetime import date
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from fslm_core import files
from fslm_core.errors import SettingsError, shorten

from .messages import Call, Row
from .schema import Catalogue, Record
from .values import DONT_CARE, alike

VARIABLE = "FSLM_ASSISTANT_CATALOGUE"
MOST = 5


def catalogue() -> Catalogue:
    """The services on offer.

    Raises:
        SettingsError: the file that is named cannot be read, or is no catalogue.
    """
    named = os.environ.get(VARIABLE)
    return _read(Path(named) if named else files("fslm_assistant") / "catalogue.json")


@lru_cache(maxsize=4)
def _read(path: Path) -> Catalogue:
    try:
        return Catalogue.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SettingsError(
            "the catalogue of services cannot be read",
            where=f"{VARIABLE}={path}",
            found=shorten(str(error)),
            hint="name a JSON file with `services` and `rows`, as catalogue.json of fslm-assistant has them",
        ) from None


def serve(service: str, does: bool, call: Call, records: list[Record] | None, today: date) -> list[Row]:
    """What the call gives; no rows where it fails or finds nothing."""
    if records is not None:
        return next((r.results for r in records if r.intent == call.intent and same(r.parameters, call, today)), [])
    rows = [row for row in catalogue().rows.get(service, []) if _fits(row, call.parameters, today)]
    return [{**rows[0], **call.parameters}] if does and rows else rows[:MOST]


def same(parameters: Row, call: Call, today: date) -> bool:
    """Whether a call has these parameters: the same slots, their values in any form."""
    told = {name: value for name, value in parameters.items() if value != DONT_CARE}
    return told.keys() == call.parameters.keys() and all(
        alike(value, call.parameters[name], today) for name, value in told.items()
    )


def _fits(row: Row, parameters: Row, today: date) -> bool:
    """Whether a row has what was asked for; what it says nothing of is taken to be possible."""
    return all(alike(row[name], value, today) for name, value in parameters.items() if name in row)


__all__ = ["VARIABLE", "catalogue", "same", "serve"]
