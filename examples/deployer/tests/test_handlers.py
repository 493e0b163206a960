"""The handlers alone: milliseconds each, no Kafka."""

import pytest
from deployer_handlers.databases import database_requested
from deployer_handlers.deployments import FROZEN, deployment_requested

from agents import Secret
from agents.testing import run_handler

CHECKOUT = {"eventType": "deployment.requested", "service": "checkout", "version": "1.4.0"}


def test_a_deployment() -> None:
    outcome = run_handler(deployment_requested, CHECKOUT)
    assert outcome.result == "SUCCESS"
    assert outcome.output is not None
    assert outcome.output["environment"] == "staging"


def test_production_waits_for_its_second_call() -> None:
    to_production = CHECKOUT | {"environment": "production"}
    first = run_handler(deployment_requested, to_production)
    assert (first.result, first.retry_in) == (None, 1.0)
    assert run_handler(deployment_requested, to_production, attempt=2).result == "SUCCESS"


def test_a_frozen_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployer_handlers.deployments.FROZEN", FROZEN | {"checkout"})
    assert run_handler(deployment_requested, CHECKOUT).error == "checkout is frozen"


def test_a_payload_that_does_not_fit() -> None:
    outcome = run_handler(deployment_requested, {"service": "checkout"})
    assert outcome.error == "the item does not fit its model: version: Field required"


def test_a_password_stays_out_of_what_port_is_told() -> None:
    outcome = run_handler(database_requested, {"name": "orders", "password": Secret("correct-horse-battery")})
    assert outcome.output == {"database": "orders", "url": "postgresql://app:***@db/orders"}


def test_a_short_password() -> None:
    assert run_handler(database_requested, {"name": "orders", "password": Secret("short")}).result == "FAILED"
