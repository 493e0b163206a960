"""What a team writes handlers with. Importing it reads no settings and builds no app.

from agents import Context, Fail, RetryLater, Secret, handles
"""

from agents.contract import Context, Fail, RetryLater, handles
from port.secrets import Secret

__all__ = ["Context", "Fail", "RetryLater", "Secret", "handles"]
