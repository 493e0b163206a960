"""The two routes by which Port takes the report of a node run, and which of them works."""

from dataclasses import dataclass
from enum import Enum


class Route(Enum):
    """A path of the call that updates a node run."""

    BY_RUN = "workflows/runs/{run_id}/nodes/{node_run_id}"
    """On Port's pages about workflows; needs the id of the workflow run."""
    ALONE = "workflows/nodes/runs/{node_run_id}"
    """In Port's API reference."""

    @property
    def other(self) -> "Route":
        """The other one."""
        return Route.ALONE if self is Route.BY_RUN else Route.BY_RUN


@dataclass
class Routes:
    """Remembers for the whole worker which route Port knows node runs by: that one is tried first.

    Attributes:
        first: the one to try first.
        proven: whether Port has known a node run by it.
    """

    first: Route = Route.BY_RUN
    proven: bool = False

    def works(self, route: Route) -> None:
        """Take note that Port knew a node run by this route, which could have been asked for by the other one, too."""
        self.first, self.proven = route, True

    def usable(self, run_id: str | None) -> tuple[Route, ...]:
        """Return the routes to a node run, the first one first; without a workflow run there is one."""
        return (Route.ALONE,) if run_id is None else (self.first, self.first.other)
