"""The benchmark: that it runs, that its figures are what they say, and that it takes no subject's word for anything."""

import math
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from bench import loop, record
from bench.errors import BenchError
from bench.fairness import CALM, HUNG, FairnessReport, measure_fairness
from bench.figures import Figures, Phase, Totals, figures_of, measures, of_subject, p, percentile, ratio
from bench.loop import Offsets
from bench.options import parse
from bench.program import Neighbours, Usage
from bench.record import Record
from bench.report import Report
from bench.rounds import measure, rotated
from bench.screen import Screen
from bench.stalls import longest
from bench.subjects import DURABLE_LOOP, LOOP, SUBJECTS, WORKER
from bench.trial import Place, new_place, run_trial
from bench.views import ROUNDS, Start, ViewsReport, asked, measure_views
from bench.work import CONCURRENCY, payload, work
from local.emulator import Emulator
from local.kafka import EmbeddedKafka

WARM_UP, BURST, RATE, SECONDS = 50, 300, 50, 2
PUBLISHED = WARM_UP + BURST + RATE * SECONDS
SMALL = parse(["--runs=1", f"--burst={BURST}", f"--rates={RATE}", f"--seconds={SECONDS}", f"--warm-up={WARM_UP}"])


async def ends(kafka: EmbeddedKafka, topic: str) -> dict[TopicPartition, int]:
    """The number of records in each partition of a topic that nothing was deleted from."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, group_id=None) as consumer:
        offsets: dict[TopicPartition, int] = await consumer.end_offsets(consumer.assignment())
        return offsets


async def committed(place: Place, group: str) -> dict[TopicPartition, int]:
    """What a group has committed of the topic that Port publishes on."""
    admin = AIOKafkaAdminClient(bootstrap_servers=place.kafka.bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {partition: offset.offset for partition, offset in found.items() if partition.topic == place.topic}


async def test_fairness_is_measured_while_a_handler_hangs_and_while_it_does_not(
    kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    options = parse(["--fairness", "--runs=1", "--rates=50", "--seconds=1", "--warm-up=20"])
    report = await measure_fairness(options, new_place(kafka, tmp_path / "fairness"), Screen())
    [latencies] = report.rounds
    assert [len(latencies[mode]) for mode in (CALM, HUNG)] == [50, 50]
    assert all(0 < latency < 30 for mode in (CALM, HUNG) for latency in latencies[mode])
    assert orjson.loads(report.to_json())["rounds"] == [latencies]


def test_the_fairness_of_several_rounds_is_the_median_of_their_ratios() -> None:
    options = parse(["--fairness", "--runs=3", "--rates=50"])
    rounds = [{CALM: [calm] * 9, HUNG: [hung] * 9} for calm, hung in ((0.1, 0.11), (0.2, 0.2), (0.05, 0.5))]
    report = FairnessReport(options, rounds, others=0.25)
    assert report.ratio(99).median == pytest.approx(1.1)
    assert report.rows()[1] == ["latency, p99, ms", "100 (50-200)", "200 (110-500)", "1.10 (1.00-10.00)"]
    assert report.targets() == ["met: p99 while another event type hangs, as a multiple of the calm one, ≤ 1.2: 1.10"]
    assert "| latency, p99, ms | 100 (50-200) |" in report.markdown()
    slower = FairnessReport(options, rounds[2:], others=0.25)
    assert slower.targets()[0].startswith("missed: ")


async def test_the_views_are_measured_with_node_runs_behind_them(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    options = parse(["--views=500", "--runs=1"])
    report = await measure_views(options, new_place(kafka, tmp_path / "views"), Screen())
    assert all(0 < start.ready <= start.counted and start.memory > 0 for start in report.starts.values())
    assert set(report.seconds) == set(asked(datetime.now(UTC)))
    assert all(len(took) == ROUNDS and min(took) > 0 for took in report.seconds.values())
    assert orjson.loads(report.to_json())["seconds"] == report.seconds


def test_the_targets_of_the_views_are_of_the_slowest_page_and_the_longest_stall() -> None:
    start = Start(ready=2.0, counted=3.0, stall=0.09, memory=2**20)
    seconds = {"overview": [0.001] * 9, "failures": [0.2] * 9}
    report = ViewsReport(parse(["--views=500"]), {"empty disk": start}, seconds, 0.05, 2**20, others=0.0)
    assert [line.split(":")[0] for line in report.targets()] == ["met", "met"]
    assert report.rows()[1] == ["failures", "200", "200", "200"]
    slower = replace(
        report, seconds=seconds | {"overview": [0.301] * 9}, starts={"empty disk": replace(start, stall=0.2)}
    )
    assert [line.split(":")[0] for line in slower.targets()] == ["missed", "missed"]


def test_the_longest_stall_of_a_time(tmp_path: Path) -> None:
    file = tmp_path / "stalls"
    assert longest(file, 0.0) == 0.0
    file.write_text("100.000 0.5000\n200.000 0.0300\n300.000 0.0200\n")
    assert longest(file, 150.0) == 0.03


class TestTrial:
    """Each subject for real, once."""

    @pytest.fixture(params=SUBJECTS)
    def subject(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    async def test_a_subject_completes_all_and_has_every_figure(
        self, subject: str, kafka: EmbeddedKafka, tmp_path: Path
    ) -> None:
        place = new_place(kafka, tmp_path / subject)
        figures = await run_trial(subject, SMALL, place, Screen())

        assert set(figures) == {one.key for one in measures([RATE])}
        assert all(math.isfinite(value) for value in figures.values())
        # On an idle machine there is nobody else; and so few records of the plain loop may cost Kafka less than the
        # 10 ms that CPU time is counted in.
        may_be_none = {"others", "broker_cpu"}
        assert [key for key, value in figures.items() if value <= 0 and key not in may_be_none] == []
        assert all(figures[key] >= 0 for key in may_be_none)
        assert figures["calls"] == 1.0
        assert figures[p(50, RATE)] <= figures[p(99, RATE)]
        # None of the bursts took a minute; and 100 reports at a time wait for their answers, but for the last ones,
        # which count when they arrive.
        waits = math.ceil(BURST / CONCURRENCY) - 1
        assert BURST / 60 < figures["throughput"] < 1000 * BURST / (waits * SMALL.latency_ms)
        assert (
            await self.written(place)
            == {
                WORKER: 0,
                LOOP: 0,
                # One for each change of state.
                DURABLE_LOOP: 3 * PUBLISHED,
            }[subject]
        )
        group = f"{place.organization}.{'port-runs' if subject == WORKER else 'loop'}"
        assert await committed(place, group) == await ends(kafka, place.topic)

    async def written(self, place: Place) -> int:
        return sum((await ends(place.kafka, f"{place.organization}.loop-changelog")).values())


async def test_the_subjects_take_turns() -> None:
    trials: list[str] = []

    async def trial(subject: str, name: str) -> Figures:
        trials.append(name)
        return {"throughput": float(len(trials)), "first": 0.0}

    rounds = await measure(parse(["--runs=2", "--subjects=loop,durable-loop"]), trial, Screen())
    assert trials == ["loop-1", "durable-loop-1", "durable-loop-2", "loop-2"]
    assert [(one[LOOP]["throughput"], one[DURABLE_LOOP]["throughput"]) for one in rounds] == [(1, 2), (4, 3)]


def test_each_comes_first_once() -> None:
    assert [rotated("abc", by)[0] for by in range(4)] == ["a", "b", "c", "a"]


class TestRecord:
    """What a subject may not get away with."""

    @pytest.fixture
    async def emulator(self) -> AsyncIterator[Emulator]:
        async with Emulator() as emulator:
            yield emulator

    @pytest.fixture
    async def seen(self, emulator: Emulator) -> AsyncIterator[Record]:
        async with record.Port(emulator.base_url) as port:
            await port.register([("wfr_1", "wfnr_1"), ("wfr_2", "wfnr_2")])
            yield Record(port, latency_ms=50)

    @pytest.fixture
    async def port(self, emulator: Emulator) -> AsyncIterator[loop.Port]:
        """The calls as the loops make them."""
        config = emulator.config
        credentials = {"clientId": config.client_id, "clientSecret": config.client_secret.get_secret_value()}
        async with aiohttp.ClientSession() as session:
            port = loop.Port(session, emulator.base_url, credentials)
            await port.log_in()
            yield port

    async def test_a_completed_node_run_counts_when_it_arrived(
        self, seen: Record, port: loop.Port, emulator: Emulator
    ) -> None:
        await port.complete("wfr_1", "wfnr_1", work(payload(7)))
        await seen.read_on()
        seen.require({"wfnr_1": 7})
        [report] = emulator.calls.named("report")
        assert seen.completed == {"wfnr_1": pytest.approx(report.time - 0.05, abs=1e-6)}
        assert seen.calls == 2  # with the one for the token

    async def test_one_that_is_missing(self, seen: Record, port: loop.Port) -> None:
        await port.complete("wfr_1", "wfnr_1", work(payload(7)))
        await seen.read_on()
        with pytest.raises(BenchError, match="1 of 2 node runs are not completed, such as wfnr_2"):
            seen.require({"wfnr_1": 7, "wfnr_2": 8})

    async def test_one_with_the_output_of_another(self, seen: Record, port: loop.Port) -> None:
        await port.complete("wfr_1", "wfnr_1", work(payload(8)))
        await seen.read_on()
        with pytest.raises(BenchError, match=r"wfnr_1 was completed with .* instead of"):
            seen.require({"wfnr_1": 7})

    async def test_two_that_contradict_each_other(self, seen: Record, port: loop.Port) -> None:
        await port.complete("wfr_1", "wfnr_1", work(payload(7)))
        await port.complete("wfr_1", "wfnr_1", work(payload(8)))
        with pytest.raises(BenchError, match=r"wfnr_1 was completed with .*, then with"):
            await seen.read_on()

    async def test_repeats_are_calls_too(self, seen: Record, port: loop.Port, emulator: Emulator) -> None:
        for _ in range(3):
            await port.complete("wfr_1", "wfnr_1", work(payload(7)))
        await seen.read_on()
        seen.require({"wfnr_1": 7})
        assert seen.calls == 4
        assert seen.completed["wfnr_1"] == pytest.approx(emulator.calls.named("report")[0].time - 0.05, abs=1e-6)

    async def test_the_loops_outlast_errors_and_tokens(self, seen: Record, port: loop.Port, emulator: Emulator) -> None:
        async with record.Port(emulator.base_url) as control:
            await control._call("PUT", "/emulator/faults", {"paths": ["report"], "status": 503, "count": 1})
        emulator.tokens.revoke()
        await port.complete("wfr_1", "wfnr_1", work(payload(7)))
        await seen.read_on()
        seen.require({"wfnr_1": 7})
        assert [call.status for call in emulator.calls] == [200, 503, 401, 200, 200]


class Committing:
    """Stands in for a consumer: keeps what is committed."""

    def __init__(self) -> None:
        self.commits: list[Mapping[TopicPartition, int]] = []

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.commits.append(dict(offsets))


async def test_the_loops_commit_in_order_and_only_what_has_succeeded() -> None:
    consumer = Committing()
    offsets = Offsets(consumer)
    one, two = TopicPartition("t", 0), TopicPartition("t", 1)
    for offset in (5, 6, 8):
        offsets.begin(one, offset)
    offsets.begin(two, 0)
    offsets.end(one, 6)
    offsets.end(two, 0)
    await offsets.commit()
    offsets.end(one, 5)
    await offsets.commit()
    await offsets.commit()
    offsets.end(one, 8)
    await offsets.on_partitions_revoked([one])
    await offsets.commit()
    assert consumer.commits == [{one: 5, two: 1}, {one: 8}, {one: 9}]


def test_work_of_its_own_is_not_a_neighbours() -> None:
    def taken() -> float:
        times = psutil.cpu_times()
        return float(times.user + times.nice + times.system)

    before, since = taken(), time.monotonic()
    neighbours = Neighbours()
    began = time.process_time()
    while time.process_time() - began < 0.5:
        sum(range(10_000))
    assert Usage(os.getpid()).cpu_seconds() >= 0.5
    theirs = neighbours.cores() * (time.monotonic() - since)
    # However busy the machine is, what was done here is none of theirs.
    assert theirs < taken() - before - 0.4


class TestFigures:
    def test_percentiles_are_values_that_were_seen(self) -> None:
        values = list(range(1, 201))
        assert [percentile(values[::-1], percent) for percent in (50, 99, 100)] == [100, 198, 200]
        assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0

    def test_they_are_computed_from_times(self) -> None:
        # Published 0.1 s apart from 10.0 on, completed in the reverse order from 11.0 on.
        published = {f"wfnr_{n}": 10.0 + n / 10 for n in range(5)}
        completed = {f"wfnr_{n}": 11.0 + (4 - n) / 4 for n in range(5)}
        burst = Phase(published, completed, cpu=0.02, broker_cpu=0.01)
        steady = Phase({"wfnr_5": 20.0}, {"wfnr_5": 20.25}, cpu=0.001, broker_cpu=0.0)
        assert figures_of(burst, {50: steady}, Totals(calls=9, peak_memory=3 * 2**20, others=0.5)) == {
            "throughput": pytest.approx(5 / 2.0),
            "first": pytest.approx(1.0),
            "calls": pytest.approx(1.5),
            "cpu": pytest.approx(4.0),
            "broker_cpu": pytest.approx(2.0),
            "memory": pytest.approx(3.0),
            "others": 0.5,
            "p50@50": pytest.approx(250),
            "p99@50": pytest.approx(250),
            "cpu@50": pytest.approx(1.0),
        }

    def test_ratios_are_taken_within_each_run(self) -> None:
        # A machine that is ten times slower in one run shows in the medians, not in the ratios.
        rounds = [{"a": {"x": a}, "b": {"x": b}} for a, b in ((10.0, 20.0), (1.0, 2.0), (12.0, 20.0))]
        found = ratio(rounds, "a", "b", "x")
        assert (found.median, found.low, found.high) == (0.5, 0.5, 0.6)
        assert of_subject(rounds, "a", "x").median == 10.0

    def test_there_may_be_nothing_to_divide_by(self) -> None:
        assert ratio([{"a": {"x": 1.0}, "b": {"x": 0.0}}], "a", "b", "x").median == math.inf


class TestReport:
    def figures(self, **changed: float) -> Figures:
        return {one.key: 100.0 for one in measures([50, 100])} | {"calls": 1.0, "first": 1.5} | changed

    def report(self, *arguments: str, **changed: float) -> Report:
        loops = {LOOP: self.figures(), DURABLE_LOOP: self.figures()}
        return Report(parse(arguments), [{WORKER: self.figures(**changed), **loops}])

    def verdicts(self, report: Report) -> list[str]:
        return [line.partition(":")[0] for line in report.targets()]

    def test_targets_that_are_met_by_the_skin_of_their_teeth(self) -> None:
        report = self.report(**{"throughput": 40, "p99@50": 200, "first": 2, "calls": 1.004})
        assert self.verdicts(report) == ["met"] * 4

    def test_targets_that_are_missed(self) -> None:
        report = self.report(**{"throughput": 39, "p99@50": 201, "first": 2.01, "calls": 1.01})
        assert self.verdicts(report) == ["missed"] * 4
        assert report.targets()[1] == "missed: throughput, as a multiple of the durable loop's, ≥ 0.4: 0.39"

    def test_targets_without_what_they_compare_with(self) -> None:
        report = Report(parse(["--subjects=worker", "--rates=100"]), [{WORKER: self.figures()}])
        del report.rounds[0][WORKER]["p99@50"]
        assert self.verdicts(report) == ["met", "not measured", "not measured", "met"]

    def test_the_table_has_a_row_for_each_figure_and_a_cell_for_each_column(self) -> None:
        report = self.report(throughput=1234.5)
        assert report.header()[1:] == [*SUBJECTS, "worker / durable-loop", "worker / loop"]
        assert [len(row) for row in report.rows()] == [len(report.header())] * len(measures([50, 100]))
        row = "| throughput of the burst, node runs/s | 1,234 | 100 | 100 | 12.35 | 12.35 |"
        assert row in report.markdown().splitlines()

    def test_the_spread_is_shown_where_there_is_one(self) -> None:
        rounds = [{LOOP: self.figures(throughput=value)} for value in (100.0, 90.0, 130.0)]
        assert Report(parse(["--subjects=loop"]), rounds).rows()[0][1] == "100 (90-130)"

    def test_the_json_has_all_runs(self) -> None:
        report = self.report("--json=x", first=0.25)
        told = orjson.loads(report.to_json())
        assert told["rounds"] == report.rounds
        assert told["options"]["burst"] == 20_000


class TestOptions:
    def test_the_defaults(self) -> None:
        options = parse([])
        assert (options.runs, options.burst, options.rates, options.latency_ms) == (5, 20_000, (50, 100), 50)
        assert options.subjects == SUBJECTS

    @pytest.mark.parametrize(
        "wrong", ["--runs=0", "--rates=50,", "--seconds=nan", "--subjects=loop,worm", "--burst=-1"]
    )
    def test_what_cannot_be(self, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            parse([wrong])
        assert ended.value.code == 2
        assert "must be" in (said := capsys.readouterr().err) or "there are only" in said
