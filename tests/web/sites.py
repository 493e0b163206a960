"""The views of a fake worker, put together as those of a real one are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from agents.callbacks import Callbacks as Urls
from streams.messages import Foreign, sort_out
from streams.progress import Watch
from tables.state import State
from tests.web.fakes import PARTITIONS, FakeWorker
from web.actions import Actions
from web.auth import Guard
from web.callbacks import Callbacks
from web.front import Failed, Looked
from web.handlers import Handlers
from web.health import Readiness
from web.index import FailedRun
from web.letters import LetterViews
from web.metrics import Gauges
from web.others import Others, Peer, Seal
from web.owners import Owners
from web.pages import Pages
from web.series import SeriesShown, SeriesViews, Step
from web.site import Area, LeftAlone, Site, Strangers
from web.status import Status
from web.stuck import Stuck
from web.trials import Trials
from web.workers import Workers

URLS = Urls((SecretStr("k" * 32),), "org", "https://runs.example/prefix")


class NothingFailed:
    """A worker without an index: none of its node runs has failed."""

    async def failed(self, since: float, limit: int) -> tuple[int, list[FailedRun]]:
        """Return none."""
        return 0, []


@dataclass
class Around:
    """What the views are given beside the worker."""

    token: str = ""
    read_token: str = ""
    key: str = "k"
    """Signs what workers ask each other."""
    settled: bool = True
    peers: Sequence[Peer] = ()
    """The group, as all workers are told."""
    samples: Sequence[LeftAlone] = ()
    steps: Sequence[Step] = ()
    """The last hour of each worker."""
    step_seconds: int = 60
    failed: Failed | None = None
    """Knows what has failed lately; None for nothing."""
    areas: Sequence[Area] = ()
    urls: Urls = URLS
    watch: Watch = field(default_factory=lambda: Watch([], lambda: False))
    """What `/healthz` asks: of a worker that is well."""
    test_messages: bool = True
    patience: float = 0.5
    """Seconds that other workers have to answer."""


def site_of(worker: FakeWorker, around: Around) -> Site:
    """Return the views of a worker; `others` in it is to be closed."""

    async def roster() -> list[Peer]:
        return list(around.peers)

    async def refused(limit: int) -> list[str]:
        runs, _ = await worker.here.latest(worker.here.now(), limit, State.REFUSED)
        return [run.node_run_id for run in runs]

    here, pages, post = worker.here, Pages(), worker.post
    others = Others(
        worker.app.incarnation,
        lambda: str(worker.app.conf.canonical_url),
        lambda: here.listed,
        PARTITIONS,
        roster,
        Seal(SecretStr(around.key), "app"),
        seconds=around.patience,
    )
    readiness = Readiness(worker.worker, here.dispatch, settled=around.settled)
    status = Status(here, readiness, worker.loop_lag)
    registry = CollectorRegistry()
    registry.register(Gauges(here, readiness, {"handler-greet": worker.feeder}, around.watch))
    owners = Owners(here, readiness, others)
    actions = Actions(here, owners, pages, worker.pausing, worker.feeders.keys(), worker.ask, worker.ask_to_pause)
    trials = Trials(
        around.test_messages,
        worker.app.incarnation,
        pages,
        actions,
        worker.declarations,
        worker.try_out,
        worker.publish,
        post.note,
    )
    handlers = Handlers(here, pages, worker.pausing, worker.declarations, others, worker.counts, trials)
    return Site(
        here=here,
        readiness=readiness,
        guard=Guard(around.token, around.read_token),
        strangers=Strangers(around.samples, lambda: {Foreign.RESOURCE_TYPE.value: 7}),
        registry=registry,
        pages=pages,
        callbacks=Callbacks(around.urls, here, worker.record),
        actions=actions,
        letters=LetterViews(post.letters, pages, actions, post.read, post.enter, post.write, sort_out),
        watch=around.watch,
        others=others,
        owners=owners,
        workers=Workers(status, others, pages, asks=bool(around.token)),
        looked=Looked(
            failed=around.failed or NothingFailed(),
            behind=lambda: worker.behind,
            letters=post.letters,
            series=SeriesViews(lambda: _series(worker, around), others),
            status=status,
            watch=around.watch,
            pausing=worker.pausing,
            deadlines=dict.fromkeys(worker.feeders, 300.0),
        ),
        areas=[
            *around.areas,
            handlers,
            Stuck(here, pages, others, worker.pausing, worker.declarations, refused, worker.clock),
        ],
    )


def _series(worker: FakeWorker, around: Around) -> SeriesShown:
    return SeriesShown(worker=worker.app.incarnation, step_seconds=around.step_seconds, steps=list(around.steps))
