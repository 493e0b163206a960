"""Strict validation of what Port's API is sent, by hand: it stands in the way of thousands of calls a second."""

from collections.abc import Mapping
from typing import Final

import orjson
from pydantic import JsonValue

_REPORT_FIELDS: Final = frozenset({"status", "result", "output", "links", "externalRunId"})
_RESULTS: Final = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
_LEVELS: Final = frozenset({"DEBUG", "INFO", "WARN", "ERROR"})
_LINK_FIELDS: Final = frozenset({"url", "label", "title", "icon"})
_MOST_LINKS: Final = 3

Body = dict[str, JsonValue]


class Invalid(ValueError):
    """A body that Port refuses with 422; the message is the reason it gives."""


def parse_object(raw: bytes) -> Body:
    """Decode a body that must be a JSON object. Raises Invalid."""
    try:
        value: JsonValue = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Invalid("the body must be an object")
    return value


def parse_report(raw: bytes) -> Body:
    """Decode and check the body of a report. Raises Invalid."""
    body = parse_object(raw)
    _only(body, _REPORT_FIELDS)
    _check_status(body)
    if "output" in body and not isinstance(body["output"], dict):
        raise Invalid("output must be an object")
    if "externalRunId" in body and not isinstance(body["externalRunId"], str):
        raise Invalid("externalRunId must be a string")
    if "links" in body:
        _check_links(body["links"])
    return body


def parse_logs(raw: bytes) -> list[JsonValue]:
    """Decode and check the body of a call that adds logs. Raises Invalid."""
    body = parse_object(raw)
    _only(body, {"logs"})
    logs = body.get("logs")
    if not isinstance(logs, list) or not logs:
        raise Invalid("logs must be an array with at least one line")
    for index, line in enumerate(logs):
        _check_log_line(line, f"logs[{index}]")
    return logs


def _only(body: Mapping[str, JsonValue], known: frozenset[str] | set[str], where: str = "") -> None:
    if not body.keys() <= known:
        unknown = ", ".join(sorted(body.keys() - known))
        raise Invalid(f"{where}unknown field: {unknown}")


def _check_status(body: Body) -> None:
    status = body.get("status")
    if status == "COMPLETED":
        result = body.get("result")
        if not isinstance(result, str) or result not in _RESULTS:
            raise Invalid("result is required with COMPLETED: SUCCESS, FAILED or CANCELLED")
    elif status == "IN_PROGRESS":
        if "result" in body:
            raise Invalid("result is not allowed with IN_PROGRESS")
    else:
        raise Invalid("status must be IN_PROGRESS or COMPLETED")


def _check_links(links: JsonValue) -> None:
    if not isinstance(links, list) or len(links) > _MOST_LINKS:
        raise Invalid(f"links must be an array of {_MOST_LINKS} at most")
    for index, link in enumerate(links):
        _check_link(link, f"links[{index}]")


def _check_link(link: JsonValue, where: str) -> None:
    url: JsonValue = link
    if isinstance(link, dict):
        _only(link, _LINK_FIELDS, f"{where}: ")
        url = link.get("url")
        if not all(isinstance(text, str) for text in link.values()):
            raise Invalid(f"{where}: every field must be a string")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise Invalid(f"{where} must be an http(s) URL, or an object with such a url")


def _check_log_line(line: JsonValue, where: str) -> None:
    if not isinstance(line, dict):
        raise Invalid(f"{where} must be an object")
    _only(line, {"level", "message"}, f"{where}: ")
    level = line.get("level")
    if not isinstance(level, str) or level not in _LEVELS:
        raise Invalid(f"{where}: level must be DEBUG, INFO, WARN or ERROR")
    if not isinstance(line.get("message"), str):
        raise Invalid(f"{where}: message must be a string")
