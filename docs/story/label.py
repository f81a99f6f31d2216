"""Tell the trace what a person made of the week: which details were right, and what the others should have been."""

import json
from pathlib import Path

from fslm_core import settings
from fslm_core.plugins import PluginHost
from fslm_core.store import TraceStore

FIELDS = "entity_type", "entity_value"

config = settings.load()
support = PluginHost(config).stack("support")
tickets, week = (
    [json.loads(line) for line in Path(name).read_text().splitlines()] for name in ("tickets.jsonl", "week.jsonl")
)
with TraceStore.open(config.trace_path) as store:
    for ticket, row in zip(tickets, week, strict=True):
        said, right = ({field: output[field] for field in FIELDS} for output in (ticket["output"], row["output"]))
        if ticket["output"]["category"] == "OTHER":
            continue  # nobody asked for details
        if said != right:
            store.label(ticket["run"], "details", correction=right, stack=support)
        elif right["entity_type"] is not None:
            store.label(ticket["run"], "details", right=True, stack=support)
