"""Databases. A plain function: it runs in a thread, and may block."""

from pydantic import BaseModel

from agents import Fail, Secret, handles

_SHORTEST = 12


class DatabaseRequested(BaseModel):
    """What the workflow asks for; the password is a secret input of Port's."""

    name: str
    password: Secret


@handles("database.requested", concurrency=2, deadline="10m")
def database_requested(event: DatabaseRequested) -> dict[str, object]:
    """Make a database."""
    if len(event.password.get_secret_value()) < _SHORTEST:
        raise Fail("the password is too short")
    return {"database": event.name, "url": f"postgresql://app:{event.password.get_secret_value()}@db/{event.name}"}
