"""What a team writes handlers with. Importing it reads no settings and builds no app.

from agents import Array, Context, Deferred, Fail, Retry, RetryLater, Secret, handles, middleware, on_startup
"""

from agents.contract import (
    Array,
    CallNext,
    Context,
    Deferred,
    Fail,
    Output,
    Resource,
    Retry,
    RetryLater,
    handles,
    middleware,
    on_startup,
)
from port.secrets import Secret

__all__ = [
    "Array",
    "CallNext",
    "Context",
    "Deferred",
    "Fail",
    "Output",
    "Resource",
    "Retry",
    "RetryLater",
    "Secret",
    "handles",
    "middleware",
    "on_startup",
]
