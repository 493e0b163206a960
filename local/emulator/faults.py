"""Faults that can be switched on while the emulator runs, and the rate limit."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CallName = Literal["report", "auth", "logs", "run", "cancel", "credentials", "*"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FaultRule(_Settings):
    """One fault and the calls it strikes. At most one of error, `hang`, `reset` and `drop_answer`; latency with any."""

    paths: tuple[CallName, ...] = ("*",)
    """Which calls; `*` is all of Port's API."""
    node_runs: tuple[str, ...] = ()
    """Of which node runs: patterns of their ids, as in `wfnr_bad*`. Empty for calls of any, and of none."""
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Wait so long before the call is looked at."""
    error_rate: Annotated[float | None, Field(ge=0, le=1)] = None
    """The share of calls answered with `status` instead of being processed; 1 where only `status` is given."""
    status: Annotated[int | None, Field(ge=400, le=599)] = None
    """The status of those answers; 503 where only `error_rate` is given."""
    retry_after: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    """What those answers ask to wait, in seconds."""
    hang: bool = False
    """Never answer and never process. Ends when the faults are changed."""
    reset: bool = False
    """Reset the connection before processing."""
    drop_answer: bool = False
    """Process the call, then close the connection instead of answering."""
    count: Annotated[int | None, Field(ge=0)] = None
    """Strike only so many more calls."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Strike only this share of the calls, drawn from the seeded generator."""

    @model_validator(mode="after")
    def _one_fault(self) -> Self:
        if sum((self.hang, self.reset, self.drop_answer, self.fails)) > 1:
            raise ValueError("only one of status/error_rate, hang, reset and drop_answer in a rule")
        return self

    def concerns(self, name: str, node_run_id: str | None) -> bool:
        """Whether a call of this name, for this node run, is one that it may strike."""
        if "*" not in self.paths and name not in self.paths:
            return False
        return not self.node_runs or any(fnmatchcase(node_run_id or "", pattern) for pattern in self.node_runs)

    @property
    def fails(self) -> bool:
        """Whether this rule answers with an error status."""
        return self.status is not None or self.error_rate is not None


class RateLimit(_Settings):
    """A token bucket of `burst` calls that fills at `limit` calls per `period` seconds; Port's numbers by default."""

    limit: Annotated[int, Field(gt=0)] = 15_000
    period: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300
    burst: Annotated[int, Field(gt=0)] = 1_500
    reset_form: Literal["seconds", "epoch"] = "seconds"
    """How `x-ratelimit-reset` is written: Port documents both."""


class FaultSettings(_Settings):
    """All that can go wrong at a time. The first rule that strikes and does more than delay decides."""

    rules: tuple[FaultRule, ...] = ()
    rate_limit: RateLimit | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _one_rule_in_short(cls, value: object) -> object:
        """A rule's fields may stand at the top, for a single rule."""
        if not isinstance(value, Mapping) or "rules" in value:
            return value
        rule = {name: setting for name, setting in value.items() if name not in cls.model_fields}
        rest = {name: setting for name, setting in value.items() if name in cls.model_fields}
        return {**rest, "rules": [rule]} if rule else rest


class Strike(Enum):
    """What a fault does to a call. All but DELAY and DROP_ANSWER keep it from being processed."""

    DELAY = "latency"
    ERROR = "error"
    HANG = "hang"
    RESET = "reset"
    DROP_ANSWER = "drop_answer"


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall happen to one call. `label` is what the record says of it."""

    label: str
    delay: float = 0.0
    strike: Strike = Strike.DELAY
    status: int = 503
    retry_after: float | None = None


class Faults:
    """The faults in force. `changed` is called whenever they are replaced, so that hanging calls can end."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._settings = FaultSettings()
        self._left: list[int | None] = []
        self._random = random.Random(0)  # noqa: S311 - faults are to be the same each time

    @property
    def settings(self) -> FaultSettings:
        """The faults in force; `count` of a rule is what is left of it."""
        rules = [
            rule.model_copy(update={"count": left}) for rule, left in zip(self._settings.rules, self._left, strict=True)
        ]
        return self._settings.model_copy(update={"rules": tuple(rules)})

    @property
    def rate_limit(self) -> RateLimit | None:
        """The rate limit that the faults set, if they do."""
        return self._settings.rate_limit

    def set(self, settings: FaultSettings) -> None:
        """Replace all faults."""
        self._settings = settings
        self._left = [rule.count for rule in settings.rules]
        self._random = random.Random(settings.seed)  # noqa: S311 - faults are to be the same each time
        self._changed()

    def clear(self) -> None:
        """Switch all faults off."""
        self.set(FaultSettings())

    def plan(self, name: str, node_run_id: str | None = None) -> Plan | None:
        """What shall happen to a call of this name; None for nothing. Uses up the counts of the rules that strike."""
        if not self._settings.rules:
            return None
        delay = 0.0
        labels: list[str] = []
        for index, rule in enumerate(self._settings.rules):
            strike = self._strike(index, rule) if rule.concerns(name, node_run_id) else None
            if strike is None:
                continue
            delay += rule.latency_ms / 1000
            status = rule.status or 503
            labels += ["latency"] if rule.latency_ms else []
            if strike is not Strike.DELAY:
                labels.append(f"error {status}" if strike is Strike.ERROR else strike.value)
                return Plan("+".join(labels), delay, strike, status, rule.retry_after)
        return Plan("+".join(labels), delay) if labels else None

    def _strike(self, index: int, rule: FaultRule) -> Strike | None:
        """What the rule does to this call; None where it leaves it alone."""
        left = self._left[index]
        if left == 0 or not self._drawn(rule.probability):
            return None
        strike = self._kind(rule)
        if strike is not None and left is not None:
            self._left[index] = left - 1
        return strike

    def _kind(self, rule: FaultRule) -> Strike | None:
        for wanted, strike in (
            (rule.hang, Strike.HANG),
            (rule.reset, Strike.RESET),
            (rule.drop_answer, Strike.DROP_ANSWER),
        ):
            if wanted:
                return strike
        if rule.fails and self._drawn(1.0 if rule.error_rate is None else rule.error_rate):
            return Strike.ERROR
        return Strike.DELAY if rule.latency_ms else None

    def _drawn(self, share: float) -> bool:
        return share >= 1 or self._random.random() < share


class Bucket:
    """A rate limit at work. `take` uses up one call; `headers` tells where it stands."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._tokens = float(limit.burst)
        self._filled_at = clock()

    def take(self) -> bool:
        """Whether one more call is allowed now."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def headers(self) -> dict[str, str]:
        """The four headers of Port. `reset` is when one call is allowed again, or when all are where some are left."""
        self._fill()
        wanted = 1.0 if self._tokens < 1 else float(self.limit.burst)
        wait = (wanted - self._tokens) * self.limit.period / self.limit.limit
        reset = wait if self.limit.reset_form == "seconds" else self._clock() + wait
        return {
            "x-ratelimit-period": f"{self.limit.period:g}",
            "x-ratelimit-limit": str(self.limit.limit),
            "x-ratelimit-remaining": str(int(self._tokens)),
            "x-ratelimit-reset": str(int(-(-reset // 1))),
        }

    def _fill(self) -> None:
        now = self._clock()
        gained = (now - self._filled_at) * self.limit.limit / self.limit.period
        self._tokens = min(float(self.limit.burst), self._tokens + max(gained, 0.0))
        self._filled_at = now
