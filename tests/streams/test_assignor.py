"""What Faust's assignor is told of topics to which partitions were added."""

from typing import Any, cast

from faust.assignor.partition_assignor import PartitionAssignor

from streams.assignor import Used


class Cluster:
    """Topics with so many partitions."""

    def __init__(self, **topics: int) -> None:
        self._topics = topics

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        number = self._topics.get(topic)
        return None if number is None else set(range(number))


def test_added_partitions_are_nobodys_and_topics_stay_together() -> None:
    cluster = Cluster(arrivals=12, outcomes=8, changelog=16, runs=3)
    used = Used(cluster, {"arrivals": 8, "outcomes": 8, "changelog": 8})
    assert used.partitions_for_topic("arrivals") == set(range(8))
    assert used.partitions_for_topic("runs") == {0, 1, 2}
    assert used.partitions_for_topic("missing") is None
    topics = {"arrivals", "outcomes", "changelog", "runs"}
    subscriptions: Any = {"one": sorted(topics), "two": sorted(topics)}

    def groups(told: object) -> dict[int, list[set[str]]]:
        found = PartitionAssignor._get_copartitioned_groups(topics, cast("Any", told), subscriptions)
        return {number: [set(group) for group in some] for number, some in found.items()}

    assert groups(used) == {8: [{"arrivals", "outcomes", "changelog"}], 3: [{"runs"}]}
    # Told the truth, it shares them out apart from one another.
    assert len(groups(cluster)) == 4


def test_a_topic_with_fewer_is_as_it_is() -> None:
    assert Used(Cluster(arrivals=2), {"arrivals": 8}).partitions_for_topic("arrivals") == {0, 1}
