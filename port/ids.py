"""Port's ids, checked before use: they end up in a URL that is called with a token."""

import re
from typing import Final

_ID_TAIL: Final = "[A-Za-z0-9_-]{1,64}"
_NODE_RUN_ID: Final = re.compile(f"wfnr_{_ID_TAIL}", re.ASCII)
_WORKFLOW_RUN_ID: Final = re.compile(f"wfr_{_ID_TAIL}", re.ASCII)
_SHOWN_CHARACTERS: Final = 80


def is_node_run_id(value: object) -> bool:
    """Whether `value` is a well-formed id of a node run: `wfnr_` and 1 to 64 of `[A-Za-z0-9_-]`."""
    return isinstance(value, str) and _NODE_RUN_ID.fullmatch(value) is not None


def is_workflow_run_id(value: object) -> bool:
    """Whether `value` is a well-formed id of a workflow run: `wfr_` and 1 to 64 of `[A-Za-z0-9_-]`."""
    return isinstance(value, str) and _WORKFLOW_RUN_ID.fullmatch(value) is not None


def require_node_run_id(value: str) -> str:
    """Return `value`. Raises ValueError that names the kind of id and shows at most 80 characters of it."""
    if not is_node_run_id(value):
        raise ValueError(f"not a node run id: {value[:_SHOWN_CHARACTERS]!r}")
    return value


def require_workflow_run_id(value: str) -> str:
    """Return `value`. Raises ValueError that names the kind of id and shows at most 80 characters of it."""
    if not is_workflow_run_id(value):
        raise ValueError(f"not a workflow run id: {value[:_SHOWN_CHARACTERS]!r}")
    return value
