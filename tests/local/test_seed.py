"""What the seeder writes is what a ledger would have written."""

import random

from local.seed import Rows, rows_of
from port.models import Result
from tables.ledger import NodeRuns
from tables.state import State, state_of


def test_each_is_a_finished_node_run_as_the_ledger_has_it() -> None:
    chance, store = random.Random(1), Rows()
    ids = []
    for number in range(100):
        node_run_id, rows = rows_of(number, 1000.0 + number, chance)
        ids.append(node_run_id)
        store.rows |= rows
    runs = {run.node_run_id: run for run in NodeRuns(store).finished_runs(0)}
    assert sorted(runs) == sorted(ids)
    assert len(set(ids)) == 100
    for number, node_run_id in enumerate(ids):
        run = runs[node_run_id]
        assert (run.finished, state_of(run), run.status) == (True, State.REPORTED, 200)
        assert run.received_at == 1000.0 + number
        assert run.result is (Result.FAILED if number % 20 == 0 else Result.SUCCESS)
        assert run.item is not None
        assert (run.item.error is None) == (number % 20 != 0)
        assert run.item.attempt == 1 + (number % 50 == 0)
