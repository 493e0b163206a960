"""Handlers for the four payload shapes of Port's documentation: examples to start from, and the default."""

from agents.handlers import deployments, infrastructure, notifications

__all__ = ["deployments", "infrastructure", "notifications"]
