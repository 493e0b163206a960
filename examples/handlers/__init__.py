"""Handlers for the four payload shapes of Port's documentation: HANDLERS=examples.handlers in a checkout.

They forward and notify where their settings say. One whose target is not set fails its items and names the setting.
Their imports are relative, so that the folder works wherever you copy it, under any name.
"""

from . import deployments, infrastructure, notifications
from .settings import settings

__all__ = ["deployments", "infrastructure", "notifications"]

# A wrong setting is told when the worker starts, not by the first item.
settings()
