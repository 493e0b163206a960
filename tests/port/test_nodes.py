import pytest

from port.errors import NodeError
from port.nodes import OnFailure, parse_node


def test_a_node_is_read_with_its_defaults_and_keeps_what_is_unknown() -> None:
    node = parse_node({"identifier": "n", "config": {"type": "KAFKA", "payload": {"a": 1}, "later": True}, "x": 1})
    assert node.config.on_failure is OnFailure.TERMINATE
    assert node.config.payload == {"a": 1}
    assert (node.model_extra, node.config.model_extra) == ({"x": 1}, {"later": True})


def test_an_array_is_a_payload_too() -> None:
    node = parse_node({"identifier": "n", "config": {"type": "KAFKA", "payload": [{"a": 1}], "onFailure": "continue"}})
    assert node.config.payload == [{"a": 1}]
    assert node.config.on_failure is OnFailure.CONTINUE


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"config": {"type": "KAFKA", "payload": {}}}, "identifier: Field required"),
        ({"identifier": "n", "config": {"type": "WEBHOOK", "payload": {}}}, "config.type: Input should be 'KAFKA'"),
        ({"identifier": "n", "config": {"type": "KAFKA", "payload": "text"}}, "config.payload"),
        ({"identifier": "n", "config": {"type": "KAFKA", "payload": {}, "onFailure": "retry"}}, "config.onFailure"),
        ({"identifier": "n", "config": {"type": "KAFKA", "payload": {}}, "links": [1, 2, 3, 4]}, "links"),
        ([], "node: Input should be"),
    ],
)
def test_what_is_no_kafka_node_is_refused_by_field(node: object, message: str) -> None:
    with pytest.raises(NodeError, match="not a Kafka action node: ") as caught:
        parse_node(node)
    assert message in str(caught.value)
