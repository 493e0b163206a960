"""Scripts that somebody could put into what comes from outside, and a world in which they stand in every field."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

from agents.work import ItemWork
from streams.bridge import SourceState
from streams.lag import Behind
from streams.records import Action, Audited, Body, ReportAgain, Settled, Source, Tries, Try, TypePaused
from tests.web.fakes import NOON, FakeWorker, an_id, halves, lines
from web.others import Peer

SCRIPTS: Final = {
    "script": "<script>window.__pwned=1</script>",
    "end of pre": "</pre></script><script>window.__pwned=1</script>",
    "double quote": '"><img src=x onerror="window.__pwned=1">',
    "single quote": "'><svg onload=window.__pwned=1>",
    "no quote": "x onmouseover=window.__pwned=1 autofocus onfocus=window.__pwned=1 tabindex=1 ",
    "javascript": "javascript:window.__pwned=1",
    "javascript in parts": "java\tscript&colon;window.__pwned=1//",
    "data address": "data:text/html,<script>opener.__pwned=1</script>",
    "two slashes": "//evil.example/<script>window.__pwned=1</script>",
    "style": "</style><script>window.__pwned=1</script><style>*{display:none}",
    "frame": "</textarea></title></details><iframe srcdoc='<script>parent.__pwned=1</script>'></iframe>",
    "link": '<a href="javascript:window.__pwned=1" autofocus onfocus="window.__pwned=1" tabindex=1>here</a>',
    "base": "<base href=//evil.example><meta http-equiv=refresh content='0;url=javascript:window.__pwned=1'>",
    "object": "<object data=javascript:window.__pwned=1></object><embed src=javascript:window.__pwned=1>",
    "end of main": "]]></main><main id=content><script>window.__pwned=1</script></main>",
    "JSON": '</script>","a":{"__proto__":"<script>window.__pwned=1</script>"},\\u003cscript\\u003e',
    "template": "{{ 7*7 }}{% raw %}{{ ''.__class__.__mro__ }}${window.__pwned=1}#{7*7}<%= 7*7 %>",
    "comment": "<!--><img src=x onerror=window.__pwned=1>--!><script>window.__pwned=1</script>",
    "noscript": '<noscript><p title="</noscript><img src=x onerror=window.__pwned=1>">',
    "mutation": "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror=window.__pwned=1>'>",
    "names": "<form id=live name=content action=//evil.example><input id=pause name=innerHTML><img name=body></form>",
    "entities": "&lt;script&gt;window.__pwned=1&lt;/script&gt;&#60;img src=x onerror=window.__pwned=1&#62;",
    "UTF-7": "+ADw-script+AD4-window.__pwned=1+ADw-/script+AD4-",
    "separators": "\u2028</script\n><script >window.__pwned=1</script >\u2029\ufeff",
    "NUL": "<scr\x00ipt>window.__pwned=1</scr\x00ipt>",
    "direction": "\u202e<script>window.__pwned=1</script>\u202c\u200b",
    "in percent": "%3Cscript%3Ewindow.__pwned=1%3C/script%3E%0d%0aX-Evil:a=b",
    "formula": '=HYPERLINK("javascript:window.__pwned=1","<b>here</b>")',
    "dialog": "'-alert(1)-'\"-alert(1)-\"`-alert(1)-`",
    "many": "<img src=x onerror=alert(1)>" * 30,
}
ALL: Final = tuple(SCRIPTS.values())
_LETTERS_DONE: Final = 1000


def number_of(name: str) -> int:
    """Return the number of a script: `wfnr_<number>` is its node run, 0/<number> its dead letter."""
    return list(SCRIPTS).index(name)


def infected() -> tuple[FakeWorker, FakeWorker]:
    """Return two workers with every script in every field. Needs a running event loop."""
    one, other = FakeWorker("host-0123abcd", ALL), FakeWorker(ALL[0], ALL)
    halves(one, other)
    other.post = one.post
    for number, script in enumerate(ALL):
        _node_runs((one, other), number, script)
        _letters(one, number, script)
    for number, worker in enumerate((one, other)):
        waits = ItemWork(worker.here.partitions[0], an_id(worker, "queued"), 0, 0, ALL[0], 1)
        worker.feeders[ALL[0]].add(waits)
        worker.behind = {script: Behind(9, number, 9, 100.0) for script in ALL}
        status = SourceState(problem=" ".join(ALL), since=NOON)
        worker.app.bridge = SimpleNamespace(status=status)
    for partition, script in zip(one.here.partitions, ALL, strict=False):
        action = Action(id="a", who=script)
        one.pausing.change(partition, TypePaused(event_type=ALL[2], paused=True, action=action, at=NOON))
    return one, other


def strangers() -> list[Peer]:
    """Return members of the group of whom nothing is right."""
    return [Peer(script, script, frozenset()) for script in ALL]


def _owner(workers: Sequence[FakeWorker], node_run_id: str) -> FakeWorker:
    return next(one for one in workers if one.here.partition_of(node_run_id) in one.here.partitions)


def _node_runs(workers: Sequence[FakeWorker], number: int, script: str) -> None:
    # `arrive` takes the fields of an Arrival, of any type.
    fields: dict[str, Any] = {
        "workflow": script,
        "workflow_run_id": script,
        "node": script,
        "event_types": (script,),
        "source": Source(cluster=script, topic=script, partition=0, offset=number, timestamp=NOON + number),
    }
    item = {script: script, "type": script, "list": [script, {"a": script}]}
    text = json.dumps({"payload": [item, {}], "workflowRunId": script, script: script})

    two = f"wfnr_{number}"
    worker = _owner(workers, two)
    worker.arrive(two, text=text, count=2, **fields)
    logs, tries = lines(script, script), Tries(count=9, latest=(Try(at=NOON + 29),))
    worker.defer(two, 0, error=script, event_type=script, logs=logs, worker=script)
    output = json.dumps({script: [script, {script: script}]})
    worker.end(two, 0, output=output, event_type=script, attempt=2, logs=logs)
    worker.end(two, 1, error=script, trace=script, event_type=script)
    worker.settle(two, Settled.OUTPUT_REFUSED, script)
    worker.settle(two, Settled.REFUSED, script, Body.SMALL, tries=tries)
    action = Action(id=f"again{number}", who=script)
    worker.outcome(ReportAgain(node_run_id=two, report=0, action=action, at=NOON + 36))
    worker.settle(two, Settled.REFUSED, script, report=1)

    failed = f"wfnr_failed{number}"
    worker = _owner(workers, failed)
    # The one whose workflow run can be linked to.
    worker.arrive(failed, **fields | {"workflow_run_id": f"wfr_{number}"})
    worker.end(failed, error=script, trace=script, event_type=script)

    waits = f"wfnr_waits{number}"
    worker = _owner(workers, waits)
    worker.arrive(waits, **fields)
    worker.defer(waits, error=script, event_type=script)

    paused = f"wfnr_paused{number}"
    worker = _owner(workers, paused)
    worker.arrive(paused, **fields)
    worker.pausing.keep(script, ItemWork(worker.here.partition_of(paused), paused, 0, 0, script, 1))

    runs = f"wfnr_runs{number}"
    worker = _owner(workers, runs)
    worker.arrive(runs, text=script, **fields)
    worker.run(runs)
    worker.log(runs, script, script)


def _letters(worker: FakeWorker, number: int, script: str) -> None:
    raw = script.encode()
    source = Source(cluster=script, topic=script, partition=0, offset=number, timestamp=NOON)
    post, headers = worker.post, {script: raw, "kind": raw, "source": source.model_dump_json().encode()}
    post.add(number, raw, script, key=raw, headers=headers)
    post.add(_LETTERS_DONE + number, b"\xff" + raw, script, key=raw, headers=headers)
    done = f"0/{_LETTERS_DONE + number}"
    # `arrive` takes the fields of an Arrival, of any type.
    fields: dict[str, Any] = {"who": script, "what": script, "why": script, "at": NOON + number}
    for audited in (
        Audited.model_validate(fields | {"id": f"done{number}", "outcome": "applied", "letter": done}),
        Audited.model_validate(
            fields
            | {
                "id": f"odd{number}",
                "outcome": script,
                "letter": script,
                "node_run_id": script,
                "index": 1,
                "event_type": script,
            }
        ),
    ):
        post.letters.add(audited)
