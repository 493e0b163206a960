"""Which node runs are this application's, where several share a topic. Knows nothing of Faust."""

from __future__ import annotations

from dataclasses import dataclass

from agents.patterns import takes
from agents.registry import Handlers
from streams.messages import Foreign, NodeRunMessage, NotOurs, Unsure


@dataclass(frozen=True)
class Selection:
    """What is left to other consumers of the topic.

    Args:
        handlers: of this application.
        workflows: identifiers of workflows, or patterns; where there are any, no others are ours.
        nodes: the same, of their nodes.
        with_handler: whether only what has a handler here is ours (`UNKNOWN_EVENTS=ignore`).
    """

    handlers: Handlers
    workflows: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    with_handler: bool = False

    def of(self, message: NodeRunMessage) -> NodeRunMessage | NotOurs | Unsure:
        """Return the message where it is ours, else what is known of it.

        Where it does not say of which workflow or node it is, and that is what decides, nobody can tell whose it is.
        """
        for patterns, identifier, setting, other in (
            (self.workflows, message.workflow, "WORKFLOWS", Foreign.WORKFLOW),
            (self.nodes, message.node, "NODES", Foreign.NODE),
        ):
            if patterns and identifier is None:
                kind = setting.lower().rstrip("s")
                return Unsure(f"it does not name its {kind}, by which {setting} chooses what is ours")
            if patterns and not any(takes(pattern, str(identifier)) for pattern in patterns):
                return NotOurs(other)
        # Without an event type, too, be it for a problem of the message: whoever has the handler reports it.
        if self.with_handler and all(self.handlers.find(name) is None for name in message.names):
            return NotOurs(Foreign.NO_HANDLER)
        return message
