"""What can go wrong with Port, as exceptions.

PortError
├── PortUnavailable   nobody's fault for long: wait and try again (5xx, 429, timeouts, broken connections)
├── PortRefused       Port said no and will say it again: credentials, rights or the request must change
├── NodeError         the JSON of a Kafka action node is not one
└── RenderError       a template in a payload cannot be rendered; carries where and why

Reporting a node run raises none of these: `PortClient.report` returns an `Answer` instead.
"""


class PortError(Exception):
    """Base of every error of this package."""


class PortUnavailable(PortError):
    """Port could not be reached, or could not answer just now. `retry_after` is in seconds, None if unknown."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class PortRefused(PortError):
    """Port refused the call; calling again unchanged gives the same. `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NodeError(PortError):
    """The JSON of an action node is not a Kafka action node; the message names field and reason."""


class RenderError(PortError):
    """A template cannot be rendered.

    `path` says where in the payload (`payload.data.version`), `expression` is the jq text without its braces
    (None where no expression could be cut out), `reason` is jq's own message or what stopped the rendering.
    """

    def __init__(self, path: str, expression: str | None, reason: str) -> None:
        shown = "" if expression is None else f" in {{{{ {expression.strip()} }}}}"
        super().__init__(f"{path}{shown}: {reason}")
        self.path = path
        self.expression = expression
        self.reason = reason
