from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.emulator import Emulator, EmulatorConfig, JournalError
from local.emulator.journal import Journal
from local.emulator.state import NodeRunSpec, State
from local.emulator.validation import parse_report
from tests.local.calls import COMPLETED, Body, Caller


async def test_node_runs_are_remembered_over_a_restart(tmp_path: Path) -> None:
    config = EmulatorConfig(state_dir=tmp_path / "state")
    logs: Body = {"logs": [{"level": "INFO", "message": "m"}]}
    async with Emulator(config) as emulator, Caller(emulator) as caller:
        for number in range(4):
            caller.register(f"wfnr_{number}", f"wfr_{number}", "continue")
        await caller.report("wfnr_0", COMPLETED)
        await caller.report("wfnr_1", {"status": "IN_PROGRESS", "output": {"é": 1}})
        await caller.call("POST", "/v1/workflows/nodes/runs/wfnr_1/logs", logs)
        await caller.call("POST", "/v1/workflows/runs/wfr_2/cancel?force=true")
        before = _all(emulator.state)
    async with Emulator(config) as emulator, Caller(emulator) as caller:
        assert _all(emulator.state) == before
        assert (await caller.report("wfnr_0", COMPLETED)).status == 409
        assert (await caller.report("wfnr_3", COMPLETED)).status == 200
    async with Emulator(config) as emulator:
        assert emulator.state.node_runs["wfnr_3"].status == "COMPLETED"


def _all(state: State) -> list[Body]:
    runs = [state.describe_run(run) for run in state.runs.values()]
    return runs + [node_run.detail() for node_run in state.node_runs.values()]


def test_a_folder_has_one_emulator_at_a_time(tmp_path: Path) -> None:
    first = Emulator(EmulatorConfig(state_dir=tmp_path))
    with pytest.raises(JournalError, match="in use by another emulator"):
        Emulator(EmulatorConfig(state_dir=tmp_path))
    first.close()
    Emulator(EmulatorConfig(state_dir=tmp_path)).close()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"cannot use .*Not a directory"):
        Journal(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    "line", ["{\n", "[]\n", '{"node":7,"at":1}\n', '{"update":"wfnr_9","body":"{}","at":1}\n', "{}\n"]
)
def test_a_line_that_cannot_be_read_is_told(tmp_path: Path, line: str) -> None:
    (tmp_path / "node-runs.jsonl").write_text(line)
    with pytest.raises(JournalError, match=r"line 1:|does not know"):
        Emulator(EmulatorConfig(state_dir=tmp_path))


@settings(max_examples=30)
@given(cut=st.integers(0, 400))
def test_a_journal_cut_off_anywhere_is_read_up_to_its_last_whole_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("state")
    state = State(lambda: 1.0, journal=Journal(folder))
    raw = b'{"status":"COMPLETED","result":"SUCCESS"}'
    for number in range(3):
        state.update(state.register(NodeRunSpec(f"wfnr_{number}", "wfr_1")), parse_report(raw), raw)
    state.close()
    path = folder / "node-runs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    again = State(lambda: 1.0, journal=Journal(folder))
    kept = whole[:cut].count(b"\n")
    assert len(again.node_runs) == (kept + 1) // 2
    again.register(NodeRunSpec("wfnr_new", "wfr_2"))
    again.close()
    last = State(lambda: 1.0, journal=Journal(folder))
    assert "wfnr_new" in last.node_runs
    last.close()
