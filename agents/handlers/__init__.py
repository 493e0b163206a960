"""Handlers for the four payload shapes of Port's documentation, and the default.

Without settings of their own they acknowledge; with them they forward and notify. Importing them reads no settings:
each handler imports what needs them when it is called. A worker reads them at its start, in `agents/shared.py`.
"""

from agents.handlers import deployments, infrastructure, notifications

__all__ = ["deployments", "infrastructure", "notifications"]
