import pytest
from hypothesis import given
from hypothesis import strategies as st

from port.ids import is_node_run_id, is_workflow_run_id, require_node_run_id, require_workflow_run_id

TAILS = st.text("abcXYZ019_-", min_size=1, max_size=64)


@given(TAILS)
def test_well_formed_ids_are_told_apart(tail: str) -> None:
    assert is_node_run_id(f"wfnr_{tail}")
    assert is_workflow_run_id(f"wfr_{tail}")
    assert not is_node_run_id(f"wfr_{tail}")
    assert not is_workflow_run_id(f"wfnr_{tail}")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "wfnr_",
        "wfnr_a\n",
        "wfnr_a/../b",
        "wfnr_a?b",
        "wfnr_ä",
        "wfnr_\u0661",
        "xwfnr_a",
        "wfnr_" + "a" * 65,
        7,
        None,
    ],
)
def test_everything_else_is_none(value: object) -> None:
    assert not is_node_run_id(value)


def test_a_refused_id_is_named_and_cut() -> None:
    with pytest.raises(ValueError, match="not a node run id") as caught:
        require_node_run_id("x" * 1000)
    assert len(str(caught.value)) < 110
    with pytest.raises(ValueError, match="not a workflow run id"):
        require_workflow_run_id("wfnr_1")
    assert require_node_run_id("wfnr_1") == "wfnr_1"
    assert require_workflow_run_id("wfr_1") == "wfr_1"
