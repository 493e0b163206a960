"""What is kept of the lines that a call logs."""

from __future__ import annotations

import threading

from agents.lines import MAX_CHARACTERS, MAX_TEXT_CHARACTERS, MOST_LINES, LatestLines
from port.models import LogLevel
from tests.agents.examples import context


def test_the_latest_lines_are_kept_and_the_others_counted() -> None:
    lines = LatestLines()
    for number in range(MOST_LINES + 7):
        lines.add(LogLevel.INFO, str(number))
    kept = lines.kept()
    assert [line.text for line in kept.latest] == [str(number) for number in range(7, MOST_LINES + 7)]
    assert kept.left_out == 7


def test_a_long_line_is_cut_and_many_of_them_are_fewer() -> None:
    lines = LatestLines()
    for _ in range(MOST_LINES):
        lines.add(LogLevel.ERROR, "x" * 10_000)
    kept = lines.kept()
    assert {len(line.text) for line in kept.latest} == {MAX_TEXT_CHARACTERS}
    assert kept.latest[0].text.endswith("x…")
    assert MAX_CHARACTERS - 1000 < kept.size <= MAX_CHARACTERS
    assert len(kept.latest) + kept.left_out == MOST_LINES


def test_a_text_that_cannot_be_written_as_utf_8() -> None:
    lines = LatestLines()
    lines.add(LogLevel.INFO, "\ud800x")
    assert lines.kept().model_dump_json().encode()
    assert lines.kept().latest[0].text == "?x"


def test_the_threads_of_a_call_log_to_one_place() -> None:
    ctx, together = context(), threading.Barrier(8)

    def log() -> None:
        together.wait()
        ctx.log("a line")

    threads = [threading.Thread(target=log) for _ in range(8)]
    assert not ctx.has_logged
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ctx.has_logged
    assert len(ctx.lines.kept().latest) == 8
