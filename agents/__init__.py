"""What a team writes handlers with. Importing it reads no settings and builds no app.

from agents import Context, Fail, RetryLater, handles
"""

from agents.contract import Context, Fail, RetryLater, handles

__all__ = ["Context", "Fail", "RetryLater", "handles"]
