"""Handlers for the four payload shapes of Port's documentation, and the default.

Without settings of their own they acknowledge; with them they forward and notify.
"""

from agents.handlers import deployments, infrastructure, notifications
from agents.handlers.settings import settings

__all__ = ["deployments", "infrastructure", "notifications"]

# Read here, so that a wrong setting ends the worker at its start and not each item.
settings()
