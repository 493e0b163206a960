"""The ids of the node run and the workflow run that a message on `<orgId>.runs` speaks of.

The wrapping of a Kafka-node message is not documented, and what is public of it disagrees. So the ids are looked for
under every name that Port has used, in `context` and at the root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from pydantic import JsonValue
from pydantic_core import to_json

from port.ids import is_node_run_id, is_workflow_run_id

Fields: TypeAlias = Mapping[str, JsonValue]

NODE_RUN_NAMES: Final = ("nodeRunId", "nodeRunIdentifier", "workflowNodeRunId")
WORKFLOW_RUN_NAMES: Final = ("workflowRunId", "workflowRunIdentifier")
_RUN_ID: Final = "runId"
"""Of a node run, a workflow run, or an action run: its beginning says which."""
_NODE_RUN: Final = "workflowNodeRun"
_WORKFLOW_RUN: Final = "workflowRun"
_ID_MEMBERS: Final = frozenset({*NODE_RUN_NAMES, *WORKFLOW_RUN_NAMES, _RUN_ID, _NODE_RUN, _WORKFLOW_RUN})
PORT_MEMBERS: Final = frozenset({"context", "headers", "resourceType"})
_PREFIX: Final = "wfnr_"
_ID: Final = r"wfnr_[A-Za-z0-9_-]+"
_MENTIONED: Final = re.compile(_ID.encode())
_WHOLE: Final = re.compile(rb'"(wfnr_[A-Za-z0-9_-]{1,64})"')
_NAMES: Final = "|".join((*NODE_RUN_NAMES, _RUN_ID, "identifier"))
_MEMBER: Final = re.compile(rf'"(?:{_NAMES})"\s*:\s*"({_ID})"')
_WORKFLOW_NAMES: Final = "|".join((*WORKFLOW_RUN_NAMES, _RUN_ID, "identifier"))
_WORKFLOW_MEMBER: Final = re.compile(rf'"(?:{_WORKFLOW_NAMES})"\s*:\s*"(wfr_[A-Za-z0-9_-]+)"')
_OTHERS: Final = re.compile(r'"(?:invocationMethod|diff)"\s*:|"runId"\s*:\s*"r_')
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}\[\]:]', re.DOTALL)


@dataclass(frozen=True)
class Ids:
    """What stands where an id of a run belongs."""

    node_runs: tuple[str, ...]
    """The different well-formed ids of node runs."""
    workflow_run: str | None
    """The first that is well formed."""
    malformed: tuple[JsonValue, ...] = ()
    """What stands in the place of a node run's id and is none."""


def ids_of(root: Fields) -> Ids:
    """Return the ids in their known places: `context` first, then the root."""
    context = root.get("context")
    places = (context, root) if isinstance(context, dict) else (root,)
    node_runs: dict[str, None] = {}
    malformed: list[JsonValue] = []
    for value in _node_run_values(places):
        if isinstance(value, str) and is_node_run_id(value):
            node_runs[value] = None
        else:
            malformed.append(value)
    return Ids(tuple(node_runs), _workflow_run_id(places), tuple(malformed))


def _node_run_values(places: tuple[Fields, ...]) -> Iterator[JsonValue]:
    """Yield what claims to be the id of a node run. At the root that takes a text: other members may be anybody's."""
    for place in places:
        if _claims(value := place.get(_RUN_ID)):
            yield value
        for name in NODE_RUN_NAMES:
            value = place.get(name)
            if value is not None and value != "" and (place is not places[-1] or _claims(value)):
                yield value
        run = place.get(_NODE_RUN)
        if isinstance(run, dict) and (value := run.get("identifier")) is not None and value != "":
            yield value


def _claims(value: JsonValue) -> bool:
    return isinstance(value, str) and value.startswith(_PREFIX)


def _workflow_run_id(places: tuple[Fields, ...]) -> str | None:
    for place in places:
        for name in (*WORKFLOW_RUN_NAMES, _RUN_ID):
            if isinstance(value := place.get(name), str) and is_workflow_run_id(value):
                return value
        run = place.get(_WORKFLOW_RUN)
        if isinstance(run, dict) and isinstance(value := run.get("identifier"), str) and is_workflow_run_id(value):
            return value
    return None


def without_ports(root: Fields) -> dict[str, JsonValue]:
    """Return the members of the root that are not Port's: neither its own, nor those that hold an id of a run."""
    return {name: value for name, value in root.items() if name not in PORT_MEMBERS and not _holds_id(name, value)}


def _holds_id(name: str, value: JsonValue) -> bool:
    if name not in _ID_MEMBERS:
        return False
    known = value.get("identifier") if isinstance(value, dict) else value
    return isinstance(known, str) and known.startswith((_PREFIX, "wfr_"))


def mentioned(fields: JsonValue, raw: bytes) -> tuple[str, ...]:
    """Return the first ids of node runs that a message speaks of outside its payload, at whatever depth.

    Args:
        fields: the message.
        raw: its bytes: of members with the same name only the last one stands in `fields`.
    """
    if b"wfnr_" not in raw and b"\\u" not in raw and b"\x00" not in raw:
        return ()
    rest, payload = fields, None
    if isinstance(fields, dict) and "payload" in fields:
        rest, payload = {name: value for name, value in fields.items() if name != "payload"}, fields["payload"]
    outside = to_json(rest)
    if b"wfnr_" in outside:
        return _shown(outside)
    hidden = raw.count(b"wfnr_") > to_json(payload).count(b"wfnr_")
    return _shown(raw) if hidden else ()


def _shown(text: bytes) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found.decode()[:80] for found in _MENTIONED.findall(text)))[:3] or ("wfnr_…",)


def has_whole_id(fields: Fields) -> bool:
    """Whether a text outside the payload is the well-formed id of a node run."""
    return _WHOLE.search(to_json({name: value for name, value in fields.items() if name != "payload"})) is not None


def ids_in(text: str) -> Ids:
    """Return the ids that can be read in what is no JSON.

    The id of a node run counts where it is the only one, stands as the value of one of the known members, not in the
    payload, and nothing marks the message as another consumer's.
    """
    found = {one[1]: one.start() for one in reversed(list(_MEMBER.finditer(text)))}
    alone = set(re.findall(_ID, text)) == set(found) and len(found) == 1
    if not alone or _OTHERS.search(text) is not None:
        return Ids((), None)
    [(node_run_id, position)] = found.items()
    if not is_node_run_id(node_run_id) or _is_in_payload(text, position):
        return Ids((), None)
    runs = {one for one in _WORKFLOW_MEMBER.findall(text) if is_workflow_run_id(one)}
    return Ids((node_run_id,), runs.pop() if len(runs) == 1 else None)


def _is_in_payload(text: str, position: int) -> bool:
    name, last = "", ""
    around: list[str] = []
    for token in _TOKEN.finditer(text, 0, position):
        match token[0]:
            case "{" | "[":
                around.append(name)
            case "}" | "]":
                name = around.pop() if around else ""
            case ":":
                name = last
            case string:
                last = string
    return '"payload"' in around
