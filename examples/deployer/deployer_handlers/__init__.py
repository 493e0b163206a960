"""The team's handlers: HANDLERS=deployer_handlers."""

from deployer_handlers import databases, deployments

__all__ = ["databases", "deployments"]
