"""What README.md and docs/ say, as far as it can be held against the code."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

import bench.options
import local.demo.options
from streams.metrics import LIST
from streams.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
HANDLERS = (ROOT / "docs" / "handlers.md").read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<'EOF'\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)
IN_WORDS = {
    "KAFKA_CA_FILE": "the system's",
    "SOURCE_CA_FILE": "the system's",
    "PORT_CA_FILE": "none",
    "API_CALLS_PER_SECOND": "none",
    "CONSUMER_GROUP": "`<orgId>.port-runs`",
    "REPLICATION_FACTOR": "the broker's",
}
EXECUTE = """
import asyncio, json, sys
from agents.contract import Context, declared_in
from agents.execution import Call, Threads, execute
import my_handlers
[handler] = declared_in(("my_handlers",))
fields = json.loads(sys.argv[1])
context = Context("wfnr_1", "wfr_1", "w", "n", handler.event_type, index=0, attempt=1, received_at=0.0, fields=fields)
print(asyncio.run(execute(Call(handler, context, 0, "worker"), Threads())).event.model_dump_json())
"""
COMMANDS = """
import json
from faust.cli import faust
from faust.cli.base import cli, find_app
find_app("streams.app")
def options(command):
    return [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
print(json.dumps({name: ["--help", *options(cli), *options(command)] for name, command in cli.commands.items()}))
"""
SETTINGS = {
    "PORT_ORG_ID": "org",
    "PORT_CLIENT_ID": "id",
    "PORT_CLIENT_SECRET": "secret",
    "HANDLERS": "examples.handlers",
}
PARSERS: dict[str, Callable[[list[str]], object]] = {
    "DEMO_ARGS": local.demo.options.parse,
    "BENCH_ARGS": bench.options.parse,
}
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCED.findall(text) if name == language]


def python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with nothing in its environment: no settings, no Kafka."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={}, capture_output=True, text=True, check=False, timeout=60
    )


class TestSettings:
    TABLE = README.partition("\n## Settings\n")[2].partition("\n## ")[0]

    def test_the_table_holds_each_setting_with_its_default(self) -> None:
        told: dict[str, str] = {}
        for names, default in re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", self.TABLE, re.MULTILINE):
            variables = re.findall(r"[A-Z_]+", names)
            defaults = default.split(", ") if ", " in default else [default] * len(variables)
            told |= dict(zip(variables, defaults, strict=True))
        assert told == {name.upper(): self.shown(name.upper(), f.default) for name, f in Settings.model_fields.items()}

    def shown(self, name: str, default: object) -> str:
        if default is PydanticUndefined:
            return "required"
        if default is None:
            return IN_WORDS[name]
        text = default.get_secret_value() if isinstance(default, SecretStr) else default
        text = ",".join(text) if isinstance(text, tuple) else text
        if isinstance(text, bool):
            return "`on`" if text else "`off`"
        if isinstance(text, int | float):
            return f"{text:g}"
        return f"`{text}`" if str(text) else "empty"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


@by_page
def test_python_compiles(page: Path) -> None:
    text = page.read_text()
    for code in [*blocks(text, "python"), *HERE_DOCUMENT.findall(text)]:
        compile(code, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_handler_of_the_readme_handles_what_its_curl_publishes(tmp_path: Path) -> None:
    [code] = blocks(README, "python")
    (tmp_path / "my_handlers.py").write_text(code)
    [body] = re.findall(r"curl -s \S+ -d '(.*?)'\n", README, re.DOTALL)
    payload = orjson.loads(body)["node"]["config"]["payload"]
    for fields, result, said in [
        (payload | {"service": "checkout"}, "SUCCESS", '{"deployed":"checkout 1.4.0"}'),
        (payload | {"environment": "nowhere"}, "FAILED", "there is no environment nowhere"),
    ]:
        done = python(tmp_path, "-c", EXECUTE, orjson.dumps(fields).decode())
        assert done.returncode == 0, done.stderr
        event = orjson.loads(done.stdout)
        assert (event["result"], event["output"] or event["error"]) == (result, said)


def test_the_handler_and_the_tests_of_the_handlers_page(tmp_path: Path) -> None:
    first, its_tests, *handlers, tests = blocks(HANDLERS, "python")
    passes(tmp_path, first, its_tests, 2)
    passes(tmp_path, "\n\n".join([first, *handlers]), tests, 4)


def passes(folder: Path, handlers: str, tests: str, count: int) -> None:
    (folder / "my_handlers.py").write_text(handlers)
    (folder / "test_my_handlers.py").write_text(tests)
    done = python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr


def test_the_first_handler_of_the_handlers_page_handles_what_its_curl_publishes(tmp_path: Path) -> None:
    (tmp_path / "my_handlers.py").write_text(blocks(HANDLERS, "python")[0])
    [body] = re.findall(r"curl -s \S+ -d '(.*?)'\n", HANDLERS, re.DOTALL)
    payload = orjson.loads(body)["node"]["config"]["payload"] | {"service": "checkout"}
    done = python(tmp_path, "-c", EXECUTE, orjson.dumps(payload).decode())
    assert done.returncode == 0, done.stderr
    event = orjson.loads(done.stdout)
    assert (event["kind"], event["error"]) == ("item_retry", "the deployment queue is busy")


@cache
def options_of(*command: str) -> set[str]:
    """The options that `--help` lists."""
    shown = python(ROOT, "-m", *command, "--help")
    assert shown.returncode == 0, shown.stderr
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", shown.stdout))


@cache
def faust_commands() -> dict[str, list[str]]:
    """The options of each command of `faust -A streams.app`."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=ROOT, env=SETTINGS, capture_output=True, text=True, check=True, timeout=60
    )
    return dict(orjson.loads(done.stdout))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def known(words: list[str]) -> bool:
    """Whether a command is one of this project's, with options that it has."""
    options = {word for word in words if re.match(r"--?[A-Za-z]", word)}
    match words:
        case ["make", target, *rest]:
            for name, _, arguments in (word.partition("=") for word in rest):
                PARSERS[name](shlex.split(arguments))
            return target in targets()
        case [".venv/bin/faust", "-A", "streams.app", command, *_]:
            return command in faust_commands() and options <= set(faust_commands()[command])
        case [".venv/bin/python" | "python", "-m", module, *_]:
            return options - {"-m"} <= options_of(module)
        case [".venv/bin/python", "-"]:
            return True
        case ["kubectl", *rest]:
            folders = [rest[at + 1] for at, word in enumerate(rest) if word == "-k"]
            return all((ROOT / folder / "kustomization.yaml").exists() for folder in folders)
        case ["curl", *_]:
            # Those of the API are run: tests/e2e/test_openapi.py.
            return options <= {"-s", "-f", "-X", "-d", "-H", "--json"}
    return False


@by_page
def test_commands_are_known(page: Path) -> None:
    text = page.read_text()
    unknown = []
    for block in blocks(text, "sh"):
        plain = HERE_DOCUMENT.sub("", block).replace("\\\n", " ")
        for line in re.findall(r"(?:'[^']*'|[^'\n])+", plain):
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words and not known(words):
                unknown.append(line)
    assert unknown == []
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets()


def test_the_table_of_metrics_is_that_of_the_list() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    printed = subprocess.run(
        [sys.executable, "-m", "streams.metrics"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"## Metrics\n\n{printed.stdout}\n" in page
    assert page.count("| `port_runs_") == len(LIST)
