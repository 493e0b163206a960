"""Messages on `<orgId>.runs`, by the row of the table that says what becomes of them.

They are written as they are sent. `RUN` and `NODE` stand for the ids of a workflow run and a node run that Port knows;
each message gets its own. What is not ours, or cannot be read, may carry them too: a call for it would be accepted, and
seen.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

RECORD_LIMIT: Final = 1_048_588
"""Kafka's default for `max.message.bytes`."""
KEPT: Final = 1_900_000
"""What is kept of a message at most."""
KEPT_KEY: Final = 65_536
"""The longest key that is kept with a dead letter."""
TOPIC_LIMIT: Final = 4 * 1024 * 1024
"""`max.message.bytes` of `<orgId>.runs`, as the worker creates it, and of the dead letters."""
_SURROGATE: Final = rb"\ud800"


@dataclass(frozen=True)
class Sending:
    """What a message is sent with beside its value."""

    key: bytes | None = b"k"
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp_ms: int | None = None


def ours(payload: bytes) -> bytes:
    """Return a Kafka-node message with this payload."""
    return b'{"context": {"workflowRunId": "RUN", "nodeRunId": "NODE"}, "payload": ' + payload + b"}"


def addressed(identifier: bytes) -> bytes:
    """Return a message with this as its node-run id: JSON, quotes included."""
    return b'{"context": {"workflowRunId": "RUN", "nodeRunId": ' + identifier + b'}, "payload": {"type": "seen"}}'


def event(event_type: bytes) -> bytes:
    """Return a message with this as its event type: JSON, quotes included."""
    return ours(b'{"type": ' + event_type + b', "n": 1}')


def sized(size: int, filling: bytes = b"x") -> bytes:
    """Return a good message that has this size when the ids, of 20 and 21 characters, are in it."""
    frame = ours(b'{"type": "seen", "x": "%s"}')
    room = size - (len(frame) - len(b"%sRUNNODE") + 20 + 21)
    fill, rest = divmod(room, len(filling))
    return frame.replace(b"%s", filling * fill + b"x" * rest)


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Return a good message, but for something this deep in its payload."""
    return ours(b'{"type": "seen", "x": ' + opening * levels + b"1" + closing * levels + b"}")


DEAD_LETTERS: Final[Mapping[str, tuple[bytes | None, str]]] = {
    # No JSON.
    "tombstone": (None, "tombstone"),
    "nothing": (b"", "not JSON"),
    "blank": (b" \r\n\t", "not JSON"),
    "nul bytes": (b"\x00" * 20, "not JSON"),
    "words": (b"deployment started", "not JSON"),
    "900 KB of no JSON": (b"x" * 900_000, "not JSON"),
    "gzip": (gzip.compress(b'{"context": {}}', mtime=0), "not JSON"),
    "50,000 brackets, never closed": (b"[" * 50_000, "not JSON"),
    # Not UTF-8.
    "utf-16": ('{"context": {}}'.encode("utf-16"), "not JSON"),
    "utf-16 without its mark": ('{"context": {}}'.encode("utf-16-le"), "not JSON"),
    # Malformed node-run ids.
    "lone surrogate as id": (addressed(b'"wfnr_' + _SURROGATE + b'"'), "malformed node-run id"),
    "invocation with a malformed id": (
        addressed(b'"wfnr_../x"').replace(b'"type": "seen"', b'"action": {"invocationMethod": "x"}'),
        "malformed node-run id",
    ),
    "id with a path": (addressed(b'"wfnr_../../x"'), "malformed node-run id 'wfnr_../../x'"),
    "id with an encoded path": (addressed(b'"wfnr_..%2F..%2Fx"'), "malformed node-run id 'wfnr_..%2F..%2Fx'"),
    "id with a slash": (addressed(b'"NODE/logs"'), "malformed node-run id"),
    "id with a query": (addressed(b'"NODE?force=true"'), "malformed node-run id"),
    "id with a fragment": (addressed(b'"NODE#x"'), "malformed node-run id"),
    "id with a host": (addressed(b'"//evil.example/NODE"'), "malformed node-run id"),
    "id with a header": (addressed(rb'"NODE\r\nX-Evil: 1"'), "malformed node-run id"),
    "id with a trailing newline": (addressed(rb'"NODE\n"'), "malformed node-run id"),
    "id with a leading space": (addressed(b'" NODE"'), "malformed node-run id"),
    "id with a nul": (addressed(rb'"NODE\u0000"'), "malformed node-run id"),
    "id with unicode digits": (addressed('"wfnr_\u0661\u0662"'.encode()), "malformed node-run id"),
    "id with full-width letters": (addressed('"wfnr_\uff41\uff42"'.encode()), "malformed node-run id"),
    "id with a combining mark": (addressed('"NODE\u0301"'.encode()), "malformed node-run id"),
    "id in capitals": (addressed(b'"WFNR_ABC"'), "malformed node-run id"),
    "id without a tail": (addressed(b'"wfnr_"'), "malformed node-run id"),
    "id with a tail of 65": (addressed(b'"wfnr_' + b"x" * 65 + b'"'), "malformed node-run id"),
    "id of 900 KB": (addressed(b'"wfnr_' + b"x" * 900_000 + b'"'), "malformed node-run id"),
    "id of a workflow run": (addressed(b'"RUN"'), "malformed node-run id"),
    "id that was not rendered": (addressed(b'"{{ .workflowNodeRun.identifier }}"'), "malformed node-run id"),
    "id as a number": (addressed(b"12345"), "malformed node-run id: a number"),
    "id as a number of 4,300 digits": (addressed(b"1" * 4300), "malformed node-run id: a number"),
    "id as a list": (addressed(b'["RUN"]'), "malformed node-run id: an array"),
    "id as an object": (addressed(b'{"identifier": "RUN"}'), "malformed node-run id: an object"),
    "id as a boolean": (addressed(b"true"), "malformed node-run id: a boolean"),
    "id as run id": (b'{"context": {"runId": "wfnr_../x"}, "payload": {"type": "seen"}}', "malformed node-run id"),
    "id of its own object": (b'{"workflowNodeRun": {"identifier": "wfnr_a b"}, "payload": {}}', "malformed node-run"),
}
"""The message, and how the reason begins or what it has in it."""


UNSURE: Final[Mapping[str, tuple[bytes, str]]] = {
    # An id where none is known to stand.
    "a text": (b'"NODE"', "speaks of"),
    "an array of messages": (b"[" + ours(b'{"type": "seen"}') + b"]", "speaks of"),
    "a message in a text": (json.dumps(ours(b'{"type": "seen"}').decode()).encode(), "speaks of"),
    "a message in a message": (b'{"value": ' + ours(b'{"type": "seen"}') + b"}", "speaks of"),
    "context as a list": (b'{"context": ["NODE"], "payload": {"type": "seen"}}', "speaks of"),
    "context as a text": (b'{"context": "NODE", "payload": {"type": "seen"}}', "speaks of"),
    "context as JSON in a text": (
        rb'{"context": "{\"nodeRunId\": \"NODE\"}", "payload": {"type": "seen"}}',
        "speaks of",
    ),
    "id under another name": (b'{"context": {"noderunid": "NODE"}, "payload": {"type": "seen"}}', "speaks of"),
    "id in the headers": (b'{"headers": {"X-Run": "NODE"}, "context": {}, "payload": {"type": "seen"}}', "speaks of"),
    "id deep in the context": (b'{"context": {"a": [{"b": "NODE"}]}, "payload": {"type": "seen"}}', "speaks of"),
    "id as a list": (addressed(b'["NODE"]'), "malformed node-run id: an array"),
    "id as an object": (addressed(b'{"identifier": "NODE"}'), "malformed node-run id: an object"),
    "two ids": (
        b'{"context": {"nodeRunId": "NODE", "runId": "wfnr_other"}, "payload": {"type": "seen"}}',
        "different node runs",
    ),
    # No JSON, and no id that can be read in it with certainty.
    "single quotes": (b"{'context': {'nodeRunId': 'NODE'}}", "not JSON"),
    "xml": (b"<message><nodeRunId>NODE</nodeRunId></message>", "not JSON"),
    "avro of a schema registry": (b"\x00\x00\x00\x00\x07\x02\x0aNODE", "not JSON"),
    "cut off in the payload before the id": (b'{"payload": {"nodeRunId": "NODE", "type": "se', "not JSON"),
    "two messages, two node runs": (
        ours(b'{"type": "seen"}') + ours(b'{"type": "seen"}').replace(b"NODE", b"wfnr_other"),
        "not JSON",
    ),
    # The payload at the root, without an event type, and no workflow run to look at.
    "no event type at the root": (b'{"context": {"runId": "NODE"}, "service": "shop"}', "the message has no payload"),
}
"""What looks like ours, in a form that is not known; and what the reason has in it."""


UNREADABLE: Final[Mapping[str, bytes]] = {
    "900 KB, cut off": ours(b'{"type": "seen", "x": "' + b"x" * 900_000)[:-1],
    "cut off before its end": ours(b'{"type": "seen"}')[:-1],
    "cut off behind the context": ours(b'{"type": "seen"}')[:-20],
    "two messages in one": ours(b'{"type": "seen"}') * 2,
    "one message a line": ours(b'{"type": "seen"}') + b"\n" + ours(b'{"type": "seen"}') + b"\n",
    "something behind it": ours(b'{"type": "seen"}') + b"\x00",
    "trailing comma": ours(b'{"type": "seen",}'),
    "comment": b"// ours\n" + ours(b'{"type": "seen"}'),
    "python's literals": ours(b'{"type": "seen", "x": None}'),
    "raw line break in a text": ours(b'{"type": "se\nen"}'),
    "bad escape": ours(rb'{"type": "\x73een"}'),
    "template that was not rendered": ours(b"{{ .outputs.trigger }}"),
    # Too deep.
    "50,000 levels of arrays": nested(50_000),
    "50,000 levels of objects": nested(50_000, b'{"a": ', b"}"),
    "50,000 levels around the message": b"[" * 50_000 + ours(b'{"type": "seen"}') + b"]" * 50_000,
    "201 levels": nested(201),
    # Not UTF-8.
    "latin-1": ours('{"type": "seen", "x": "Zürich"}'.encode("latin-1")),
    "half a character": ours(b'{"type": "seen", "x": "\xc3"}'),
    "overlong slash": ours(b'{"type": "seen", "x": "\xc0\xaf"}'),
    "surrogate in utf-8": ours(b'{"type": "seen", "x": "\xed\xa0\x80"}'),
    # Numbers that JSON does not have.
    "NaN": ours(b'{"type": "seen", "x": NaN}'),
    "Infinity": ours(b'{"type": "seen", "x": Infinity}'),
    "minus Infinity": ours(b'{"type": "seen", "x": -Infinity}'),
    "leading zero": ours(b'{"type": "seen", "x": 007}'),
    "plus sign": ours(b'{"type": "seen", "x": +1}'),
    "hexadecimal": ours(b'{"type": "seen", "x": 0x1F}'),
    "number of 900,000 digits": ours(b'{"type": "seen", "x": ' + b"1" * 900_000 + b"}"),
}
"""No JSON, but the id of its node run can be read in it."""


CUT: Final[Mapping[str, tuple[bytes, Sending, str]]] = {
    "all that the topic takes": (b"x" * (TOPIC_LIMIT - 120), Sending(), "the first 4,177,919 of its 4,194,184 bytes"),
    "all that the topic takes, without a key": (
        b"x" * (TOPIC_LIMIT - 120),
        Sending(key=None),
        "the first 4,177,920 of its 4,194,184 bytes",
    ),
    "all that the topic takes, cut off": (
        b"{" + b"x" * (TOPIC_LIMIT - 121),
        Sending(key=b""),
        "the first 4,177,920 of its 4,194,184 bytes",
    ),
    "a key of 1 MB": (b"\xff a key of 1 MB", Sending(key=b"k" * 1_000_000), "its key of 1,000,000 bytes is left out"),
    "a key of 64 KiB and one": (b"\xff", Sending(key=b"k" * (KEPT_KEY + 1)), "its key of 65,537 bytes is left out"),
    "a key of 2 MB and a value of 2 MB": (
        b"x" * 2_000_000,
        Sending(key=b"k" * 2_000_000),
        "its key of 2,000,000 bytes is left out",
    ),
    "a key of 64 KiB, and all that the topic takes": (
        b"x" * (TOPIC_LIMIT - KEPT_KEY - 120),
        Sending(key=b"k" * KEPT_KEY),
        "the first 4,112,384 of its 4,128,648 bytes",
    ),
}
"""The message, how it is sent, and what the reason says of what is not kept of it."""


NOT_OURS: Final[Mapping[str, tuple[bytes, str]]] = {
    # No message at all, but JSON.
    "null": (b"null", "no node-run id"),
    "a number": (b"10", "no node-run id"),
    "10^400": (b"1" + b"0" * 400, "no node-run id"),
    "true": (b"true", "no node-run id"),
    "an empty object": (b"{}", "no node-run id"),
    "an empty array": (b"[]", "no node-run id"),
    "900 KB of somebody else's": (b'{"entity": "' + b"x" * 900_000 + b'"}', "no node-run id"),
    "190 levels of somebody else's": (b'{"a":' * 190 + b"1" + b"}" * 190, "no node-run id"),
    # No node-run id.
    "no context": (b'{"payload": {"type": "seen"}}', "no node-run id"),
    "context null": (b'{"context": null, "payload": {"type": "seen"}}', "no node-run id"),
    "empty context": (b'{"context": {}, "payload": {"type": "seen"}}', "no node-run id"),
    "id null": (addressed(b"null"), "no node-run id"),
    "id empty": (addressed(b'""'), "no node-run id"),
    "only a workflow run": (b'{"context": {"runId": "RUN"}, "payload": {"type": "seen"}}', "no node-run id"),
    "run id as a number": (b'{"context": {"runId": 7}, "payload": {"type": "seen"}}', "no node-run id"),
    "id in the payload": (b'{"payload": {"type": "seen", "nodeRunId": "NODE"}}', "no node-run id"),
    # Self-service action runs.
    "action run": (b'{"context": {"runId": "r_AbCd"}, "payload": {"type": "seen"}}', "context.runId"),
    "action run with a node run": (
        b'{"context": {"runId": "r_1", "nodeRunId": "NODE"}, "payload": {"type": "seen"}}',
        "context.runId",
    ),
    "action run with its type": (
        b'{"resourceType": "run", "context": {"runId": "r_1"}, "payload": {}}',
        "resourceType",
    ),
    # Webhook invocations of agents.
    "invocation with a node run": (
        ours(b'{"type": "seen", "action": {"invocationMethod": {"type": "WEBHOOK", "agent": true}}}'),
        "invocationMethod",
    ),
    # Change-log events.
    "change": (b'{"resourceType": "entity", "action": "CREATE", "diff": {"before": null, "after": {}}}', "change-log"),
    "change without a type": (b'{"diff": {"before": {}, "after": null}}', "change-log"),
    "change with a node run": (ours(b'{"type": "seen"}')[:-1] + b', "diff": null}', "change-log"),
}
"""The message, and the beginning or end of why it is left alone."""


FAILED: Final[Mapping[str, tuple[bytes, str]]] = {
    "no payload": (b'{"context": {"workflowRunId": "RUN", "nodeRunId": "NODE"}}', "the message has no payload"),
    "payload under another name": (
        b'{"context": {"workflowRunId": "RUN", "nodeRunId": "NODE"}, "Payload": {"type": "seen"}}',
        "the message has no payload",
    ),
    "payload null": (ours(b"null"), "the payload is no object or array, but null"),
    "payload a text": (ours(b'"deployed"'), "the payload is no object or array, but a string"),
    "payload an empty text": (ours(b'""'), "the payload is no object or array, but a string"),
    "payload as JSON in a text": (
        ours(rb'"{\"type\": \"seen\"}"'),
        "the payload is no object or array, but a string",
    ),
    "payload a text of 900 KB": (
        ours(b'"' + b"x" * 900_000 + b'"'),
        "the payload is no object or array, but a string",
    ),
    "payload a number": (ours(b"0"), "the payload is no object or array, but a number"),
    "payload 10^400": (ours(b"1" + b"0" * 400), "the payload is no object or array, but a number"),
    "payload 1e999": (ours(b"1e999"), "the payload is no object or array, but a number"),
    "numbers that no float holds": (
        ours(b'{"type": "echo", "x": [1e999, -1e999, 1e-999, -0.0]}'),
        "a number of the message is larger than any that can be computed with",
    ),
    "payload false": (ours(b"false"), "the payload is no object or array, but a boolean"),
    "payload an empty object": (ours(b"{}"), "the payload is empty"),
    "payload an empty array": (ours(b"[]"), "the payload is empty"),
    "item a number": (ours(b'[{"type": "seen"}, 3]'), "item 1 of the payload is no object, but a number"),
    "item null": (ours(b'[null, {"type": "seen"}]'), "item 0 of the payload is no object, but null"),
    "item a text": (ours(b'["seen"]'), "item 0 of the payload is no object, but a string"),
    "item true": (ours(b"[true]"), "item 0 of the payload is no object, but a boolean"),
    "item an array": (ours(b'[[{"type": "seen"}]]'), "item 0 of the payload is no object, but an array"),
    "array of 0": (ours(b"[0]"), "item 0 of the payload is no object, but a number"),
    "10,000 items, the last a text": (
        ours(b"[" + b'{"type": "seen"},' * 9_999 + b'"seen"]'),
        "item 9999 of the payload is no object, but a string",
    ),
    "10,000 numbers": (
        ours(b"[" + b"0," * 9_999 + b"0]"),
        "item 0 of the payload is no object, but a number",
    ),
    "arrays 190 levels deep": (
        ours(b"[" * 190 + b"]" * 190),
        "item 0 of the payload is no object, but an array",
    ),
}
"""The message, and the error that Port is told."""


_BYTES: Final = "the message is larger than can be kept (1,900,000 bytes)"
TOO_LARGE: Final[Mapping[str, tuple[bytes, str]]] = {
    "a byte too much": (sized(KEPT + 1), _BYTES),
    "3 MB": (sized(3_000_000), _BYTES),
    "3 MB of quotes": (sized(3_000_000, rb"\""), _BYTES),
    "3 MB in characters of four bytes": (sized(3_000_000, "🚀".encode()), _BYTES),
    "4 MB": (sized(4_000_000), _BYTES),
    "too many items, in too many bytes": (ours(b"[" + b'{"type": "seen"},' * 150_000 + b'{"type": "seen"}]'), _BYTES),
    "too many items": (
        ours(b"[" + b'{"type": "seen"},' * 10_000 + b'{"type": "seen"}]'),
        "the payload has 10,001 items, and MAX_ITEMS allows 10,000 in one message",
    ),
    "very many empty items": (
        ours(b"[" + b"{}," * 329_999 + b"{}]"),
        "the payload has 330,000 items, and MAX_ITEMS allows 10,000 in one message",
    ),
}
"""Ours, but larger than can be kept: the message, and the error that Port is told."""


UNKNOWN: Final[Mapping[str, tuple[bytes, str]]] = {
    # No event type.
    "no event type": (ours(b'{"service": "checkout"}'), "the item has no event type"),
    "event type null": (event(b"null"), "the item has no event type"),
    "event type empty": (event(b'""'), "the item has no event type"),
    "event type a number": (event(b"5"), "the item has no event type"),
    "event type a boolean": (event(b"true"), "the item has no event type"),
    "event type a list": (event(b'["seen"]'), "the item has no event type"),
    "event type an object": (event(b'{"name": "seen"}'), "the item has no event type"),
    "event type under another name": (ours(b'{"EventType": "seen"}'), "the item has no event type"),
    # One that nobody handles.
    "nobody's": (event(b'"nobody.knows"'), "no handler for event type 'nobody.knows'"),
    "in capitals": (event(b'"SEEN"'), "no handler for event type 'SEEN'"),
    "trailing space": (event(b'"seen "'), "no handler for event type 'seen '"),
    "trailing newline": (event(rb'"seen\n"'), r"no handler for event type 'seen\n'"),
    "a nul": (event(rb'"seen\u0000"'), r"no handler for event type 'seen\x00'"),
    "event type of 1 MB": (event(b'"' + b"x" * 1_000_000 + b'"'), "no handler for event type '" + "x" * 200 + "'"),
    "control characters": (event(rb'"\u001b[31mred\u0007"'), r"no handler for event type '\x1b[31mred\x07'"),
    "other letters": (event('"\u0455een"'.encode()), "no handler for event type '\u0455een'"),
    "right to left": (event('"\u202enees"'.encode()), r"no handler for event type '\u202enees'"),
    "emoji": (event('"🚀"'.encode()), "no handler for event type '🚀'"),
    "path": (event(b'"../../etc/passwd"'), "no handler for event type '../../etc/passwd'"),
    "format": (event(b'"%s %n {0} {{ .secrets }}"'), "no handler for event type '%s %n {0} {{ .secrets }}'"),
    "lone surrogate": (event(b'"' + _SURROGATE + b'"'), "no handler for event type '\ufffd'"),
    "surrogates in the wrong order": (event(rb'"\udc00\ud800"'), "no handler for event type '\ufffd\ufffd'"),
    "at the root": (
        b'{"context": {"workflowRunId": "RUN", "nodeRunId": "NODE"}, "type": "nobody.at.all"}',
        "no handler for event type 'nobody.at.all'",
    ),
    "markup": (event(b'"<script>alert(1)</script>"'), "no handler for event type '<script>alert(1)</script>'"),
    "python's own": (event(b'"__class__"'), "no handler for event type '__class__'"),
    "larger than can be kept": (
        sized(3_000_000).replace(b"seen", b"nobody.knows"),
        "the message is larger than can be kept",
    ),
    "first of several": (ours(b'{"eventType": "nobodys", "type": "seen"}'), "no handler for event type 'nobodys'"),
}
"""The message, and how the error begins that Port is told where such messages fail."""


COMPLETED: Final[Mapping[str, bytes]] = {
    # Every place of the ids.
    "both ids in the context": ours(b'{"type": "seen"}'),
    "workflowNodeRunId": ours(b'{"type": "seen"}').replace(b'"nodeRunId"', b'"workflowNodeRunId"'),
    "run id of the workflow run": b'{"context": {"runId": "RUN", "nodeRunId": "NODE"}, "payload": {"type": "seen"}}',
    "run id of the node run": b'{"context": {"runId": "NODE"}, "payload": {"type": "seen"}}',
    "objects of their own": (
        b'{"workflowRun": {"identifier": "RUN"}, "workflowNodeRun": {"identifier": "NODE"}, '
        b'"payload": {"type": "seen"}}'
    ),
    "only the node run": addressed(b'"NODE"').replace(b'"workflowRunId": "RUN", ', b""),
    "identifiers": (
        b'{"context": {"workflowRunIdentifier": "RUN", "nodeRunIdentifier": "NODE"}, "payload": {"type": "seen"}}'
    ),
    "ids at the root": b'{"workflowRunId": "RUN", "nodeRunId": "NODE", "payload": {"type": "seen"}}',
    "resource type": ours(b'{"type": "seen"}')[:-1] + b', "resourceType": "run"}',
    "resource type null": ours(b'{"type": "seen"}')[:-1] + b', "resourceType": null}',
    "invocation of Kafka": ours(b'{"type": "seen", "action": {"invocationMethod": {"type": "KAFKA"}}}'),
    "invocation null": ours(b'{"type": "seen", "action": {"invocationMethod": null}}'),
    "invocation by hand": ours(b'{"type": "seen", "action": {"invocationMethod": "by hand"}}'),
    # What JavaScript writes, and what stands before it.
    "lone surrogate in a value": ours(b'{"type": "seen", "x": "' + _SURROGATE + b'"}'),
    "lone surrogate in a key": ours(b'{"type": "echo", "' + _SURROGATE + b'": 1}'),
    "prefix of a schema registry": b"\x00\x00\x00\x00\x07" + ours(b'{"type": "seen"}'),
    "byte order mark": b"\xef\xbb\xbf" + ours(b'{"type": "seen"}'),
    # Parts that are not as expected, but nothing that matters.
    "workflow run with a path": ours(b'{"type": "seen"}').replace(b"RUN", b"wfr_../../x"),
    "workflow run as a number": ours(b'{"type": "seen"}').replace(b'"RUN"', b"7"),
    "workflow run empty": ours(b'{"type": "seen"}').replace(b"RUN", b""),
    "another place as a number": (
        b'{"context": {"nodeRunId": 7, "runId": "NODE"}, "workflowNodeRun": 8, "payload": {"type": "seen"}}'
    ),
    "headers a list": ours(b'{"type": "seen"}')[:-1] + b', "headers": ["X-Port-Signature", 1]}',
    "headers a text": ours(b'{"type": "seen"}')[:-1] + b', "headers": "X-Port-Signature: v1"}',
    "headers of garbage": ours(b'{"type": "seen"}')[:-1] + rb', "headers": {"X-Port-Trace": [{"a\u0000": null}]}}',
    "unknown fields": ours(b'{"type": "seen"}')[:-1] + b', "model_config": 1, "__class__": 2, "": 3, "payload ": []}',
    "names as objects": (
        b'{"context": {"nodeRunId": "NODE", "workflowIdentifier": {"a": 1}, "nodeIdentifier": ["b"]}, '
        b'"payload": {"type": "seen"}}'
    ),
    "names of 1 MB": (
        b'{"context": {"nodeRunId": "NODE", "workflowIdentifier": "' + b"w" * 500_000 + b'", "nodeIdentifier": "'
        rb"\u0000\n<b>" + b"n" * 500_000 + b'"}, "payload": {"type": "seen"}}'
    ),
    "white space all over": ours(b' {\r\n\t"type" : "seen" } ').replace(b": ", b" :\r\n\t ") + b"\n\n",
    "every character escaped": ours(rb'{"\u0074\u0079\u0070\u0065": "\u0073\u0065\u0065\u006e"}'),
    "a later event type": ours(b'{"eventType": ["x"], "event": 5, "action": {"a": 1}, "type": "seen"}'),
    # Keys that come twice: the last one counts.
    "node run twice": ours(b'{"type": "seen"}').replace(b'"nodeRunId"', b'"nodeRunId": "wfnr_../x", "nodeRunId"'),
    "context twice": b'{"context": {"runId": "r_1"}, "context": {"nodeRunId": "NODE"}, "payload": {"type": "seen"}}',
    "payload twice": ours(b'{"type": "nobody.knows"}, "payload": {"type": "seen", "n": 1}'),
    "event type twice": ours(b'{"type": "nobody.knows", "type": "seen"}'),
    # Values.
    "10^400": ours(b'{"type": "seen", "x": 1' + b"0" * 400 + b"}"),
    "1e999 echoed": ours(b'{"type": "echo", "x": [1e-999, -0.0]}'),
    "numbers of 64 bits and more": ours(b'{"type": "echo", "x": [9223372036854775808, 18446744073709551616, 1e22]}'),
    "nul in texts": ours(rb'{"type": "echo", "x": "a\u0000b", "\u0000": "\u0000"}'),
    "line separators": ours('{"type": "echo", "x": "\u2028\u2029\ufeff\u0085"}'.encode()),
    "surrogate pair": ours(rb'{"type": "echo", "x": "\ud83d\ude80"}'),
    "python's own names": ours(b'{"type": "echo", "self": 1, "__class__": 2, "event": null, "": 3, "ctx": {}}'),
    "dates out of range": ours(b'{"type": "echo", "timestamp": "99999-99-99T99:99:99Z", "x": -62135596801}'),
    "template in a text": ours(b'{"type": "echo", "x": "{{ .secrets.x }} {% raw %} ${jndi:ldap://x} %s"}'),
    # Depth.
    "190 levels": nested(190),
    "190 levels echoed": nested(190).replace(b"seen", b"echo"),
    "the deepest that can be read": nested(198),
    "the deepest, echoed": nested(198).replace(b"seen", b"echo"),
    "190 levels of objects in an item": ours(b'[{"type": "echo", "x": ' + b'{"a": ' * 190 + b"1" + b"}" * 190 + b"}]"),
    # Arrays.
    "array of one": ours(b'[{"type": "seen"}]'),
    "array of the same": ours(b"[" + b'{"type": "seen"},' * 9 + b'{"type": "seen"}]'),
    # Sizes.
    "900 KB": sized(900_000),
    "Kafka's record limit": sized(RECORD_LIMIT),
    "Kafka's record limit in quotes": sized(RECORD_LIMIT, rb"\""),
    "Kafka's record limit in nul": sized(RECORD_LIMIT, rb"\u0000"),
    "Kafka's record limit in characters of four bytes": sized(RECORD_LIMIT, "🚀".encode()),
    "Kafka's record limit in white space": ours(b'{"type": "seen"}') + b"\n" * (RECORD_LIMIT - 200),
    "all that can be kept": sized(KEPT),
    "all that can be kept, in backslashes": sized(KEPT, rb"\\"),
    "a key of 1 MB": ours(b'{"type": "seen", "' + b"k" * 1_000_000 + b'": 1}'),
    "a key of 900 KB echoed": ours(b'{"type": "echo", "' + b"k" * 900_000 + b'": 1}'),
    "100,000 keys": ours(b'{"type": "seen"' + b"".join(b', "%d": 0' % n for n in range(100_000)) + b"}"),
}
"""Messages that run to their end, with SUCCESS.

The handler of event type `seen` says which fields it got, that of `echo` returns them.
"""


OUTPUT_REFUSED: Final = ours(b'{"type": "echo", "x": 1' + b"0" * 400 + b"}")
"""Runs to its end; but no number of 64 bits holds 10^400, and the emulator takes no other: a strict Port."""


SENDINGS: Final[Mapping[str, Sending]] = {
    "no key": Sending(key=None),
    "an empty key": Sending(key=b""),
    "a key that is no text": Sending(key=b"\xff\x00\xfe"),
    "a key of 64 KiB": Sending(key=b"k" * KEPT_KEY),
    "a key of 900 KB": Sending(key=b"k" * 900_000),
    "headers without values": Sending(headers=[("", None), ("a", None), ("", b"")]),
    "a header three times": Sending(headers=[("a", b"1"), ("a", b"\xff"), ("a", b"1")]),
    "a header of 100 KB": Sending(headers=[("h" * 50_000, b"\x00" * 50_000)]),
    "our own headers": Sending(headers=[("reason", b"\xff"), ("source", b"{}")]),
    "sent in 1970": Sending(timestamp_ms=0),
}
"""Ways to send a message, good or not."""
