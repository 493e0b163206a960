"""What is under deploy/, held against the application that it deploys."""

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias, cast

import promql_parser
import pytest
import yaml
from pydantic import ValidationError

from streams.metrics import LIST
from streams.progress import STUCK_SECONDS
from streams.settings import Settings
from streams.topics import topics_of
from streams.worker import STOP_SECONDS
from tables.state import State
from web import site

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
NOT_ON_THE_DASHBOARD = [
    "ledger_events",
    "unsure_messages",
    "repeated_messages",
    "due_entries",
    "held_items",
    "queue_running",
    "source_copied_records",
    "source_refused_records",
    "source_up",
    "log_rewinds",
    "deleted_records",
    "open_transaction_seconds",
    "unreadable_rows",
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
CHECK = [sys.executable, str(ROOT / "scripts" / "check_deploy.py")]

Yaml: TypeAlias = "str | int | dict[str, Yaml] | list[Yaml]"


@cache
def objects() -> dict[tuple[str, str], "Tree"]:
    """Every object of the manifests, by kind and name."""
    found = [doc for path in sorted(KUBERNETES.glob("*.yaml")) for doc in yaml.safe_load_all(path.read_text())]
    return {(doc["kind"], doc.get("metadata", {}).get("name", "")): Tree(doc) for doc in found}


class Tree:
    """A YAML value, and the way into it."""

    def __init__(self, value: Yaml) -> None:
        self.value = value

    def __getitem__(self, way: str | int) -> "Tree":
        return Tree(self.value[way])  # type: ignore[index]

    def __iter__(self) -> Iterator["Tree"]:
        return map(Tree, cast("list[Yaml]", self.value))

    def at(self, way: str) -> "Tree":
        """What is at `a.b.0.c`."""
        here = self
        for step in way.split("."):
            here = here[int(step) if step.isdigit() else step]
        return here

    @property
    def text(self) -> str:
        assert isinstance(self.value, str)
        return self.value

    @property
    def number(self) -> int:
        assert isinstance(self.value, int)
        return self.value

    @property
    def texts(self) -> dict[str, str]:
        assert isinstance(self.value, dict)
        return {name: Tree(value).text for name, value in self.value.items()}


CONFIG = objects()["ConfigMap", "port-runs"]["data"].texts
SECRET = objects()["Secret", "port-runs"]["stringData"].texts
SOME_VALUES = {name: f"a-value-as-long-as-a-signing-key-is-of-{name}" for name in SECRET} | {
    "HTTPS_PROXY": "http://user:password@proxy.example:3128"
}
STATEFUL_SET = objects()["StatefulSet", "port-runs"]
POD = STATEFUL_SET.at("spec.template.spec")
WORKER = POD.at("containers.0")
SCALED = objects()["ScaledObject", "port-runs"]["spec"]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def settings_of(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    """The settings of a worker with nothing but these in its environment."""
    for name in os.environ:
        monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a worker that is deployed by the manifests, with some value for each secret."""
    return settings_of(monkeypatch, **CONFIG, **SOME_VALUES)


def test_what_stands_for_the_handlers_starts_no_worker() -> None:
    """A default would complete node runs without doing their work."""
    assert importlib.util.find_spec(CONFIG["HANDLERS"]) is None
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name in ("worker-1", "worker-2"):
        assert compose["services"][name]["environment"]["HANDLERS"].startswith("${HANDLERS:?")


class TestSettings:
    def test_each_one_is_a_setting_and_in_one_place(self) -> None:
        known = {name.upper() for name in Settings.model_fields}
        assert known >= CONFIG.keys() | SECRET.keys()
        assert not CONFIG.keys() & SECRET.keys()

    def test_those_that_are_commented_out_are_settings_too(self) -> None:
        offered = re.findall(r"^ *# ([A-Z_]+): ", (KUBERNETES / "config.yaml").read_text(), re.MULTILINE)
        assert offered
        assert {name.upper() for name in Settings.model_fields} >= set(offered)

    def test_every_secret_setting_is_in_the_secret_and_the_example_has_no_value(self) -> None:
        typed = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
        assert typed <= SECRET.keys()
        assert set(SECRET.values()) == {""}
        assert (KUBERNETES / "secret.example.yaml").name not in objects()["Kustomization", ""]["resources"].value  # type: ignore[operator]

    def test_a_worker_takes_them(self, settings: Settings) -> None:
        assert settings.source_from_port
        assert settings.own.wrong() is None

    def test_a_worker_takes_them_with_one_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one_cluster = CONFIG | {"SOURCE_BROKERS": ""}
        assert settings_of(monkeypatch, **one_cluster, **SOME_VALUES).source is None

    def test_beyond_loopback_the_token_of_the_secret_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = SOME_VALUES | {"WEB_TOKEN": ""}
        with pytest.raises(ValidationError, match="WEB_TOKEN"):
            settings_of(monkeypatch, **CONFIG, **values)


class TestWorker:
    def test_its_end_has_time(self, settings: Settings) -> None:
        assert POD["terminationGracePeriodSeconds"].number > settings.drain_seconds + STOP_SECONDS

    def test_probes_ask_paths_that_need_no_token_on_the_port_of_the_web_views(self, settings: Settings) -> None:
        routes = set(re.findall(r'web\.get\("([^"]+)"', (ROOT / "web" / "site.py").read_text()))
        assert routes >= site._FOR_ALL
        ports = {port["name"].text: port["containerPort"].number for port in WORKER["ports"]}
        assert ports == {"web": settings.web_port}
        for probe in PROBES:
            asked = WORKER[probe]["httpGet"]
            assert asked["port"].text in ports
            assert asked["path"].text in site._FOR_ALL
        assert WORKER.at("livenessProbe.httpGet.path").text == "/healthz"
        assert WORKER.at("readinessProbe.httpGet.path").text == "/readyz"

    def test_a_blocked_event_loop_is_found_by_the_patience_of_the_probe(self) -> None:
        probe = WORKER["livenessProbe"]
        assert probe["timeoutSeconds"].number < probe["periodSeconds"].number
        assert probe["periodSeconds"].number * probe["failureThreshold"].number <= 60
        said = re.search(r"--interval=(\d+)s --timeout=(\d+)s .*--retries=(\d+)", (ROOT / "Dockerfile").read_text())
        assert said is not None
        names = ("periodSeconds", "timeoutSeconds", "failureThreshold")
        assert [int(number) for number in said.groups()] == [probe[name].number for name in names]

    def test_it_may_take_as_long_to_start_as_topics_are_waited_for(self) -> None:
        probe = WORKER["startupProbe"]
        assert probe["periodSeconds"].number * probe["failureThreshold"].number > 60

    def test_services_and_policy_lead_to_its_port(self, settings: Settings) -> None:
        labels = STATEFUL_SET.at("spec.template.metadata.labels").texts
        for name in ("port-runs", "port-runs-workers"):
            service = objects()["Service", name]["spec"]
            assert service["selector"].texts.items() <= labels.items()
            assert [port["targetPort"].text for port in service["ports"]] == ["web"]
        workers = objects()["Service", "port-runs-workers"]["spec"]
        assert STATEFUL_SET.at("spec.serviceName").text == "port-runs-workers"
        assert (workers["clusterIP"].value, workers["publishNotReadyAddresses"].value) == ("None", True)
        assert workers.at("ports.0.port").number == settings.web_port
        policy = objects()["NetworkPolicy", "port-runs"]["spec"]
        assert policy.at("podSelector.matchLabels").texts.items() <= labels.items()
        assert {port["port"].text for rule in policy["ingress"] for port in rule["ports"]} == {"web"}

    def test_the_policy_lets_it_reach_both_clusters_and_the_api(self, settings: Settings) -> None:
        policy = objects()["NetworkPolicy", "port-runs"]["spec"]
        reached = {port["port"].number for rule in policy["egress"] for port in rule["ports"]}
        assert reached >= {int(broker.rpartition(":")[2]) for broker in settings.kafka_brokers}
        assert reached >= {53, 443, 9196}

    def test_it_writes_to_its_volume_and_tmp_alone(self, settings: Settings) -> None:
        mounts = {mount["mountPath"].text: mount["name"].text for mount in WORKER["volumeMounts"]}
        volumes = {volume["name"].text for volume in POD["volumes"]}
        claims = {claim.at("metadata.name").text for claim in STATEFUL_SET.at("spec.volumeClaimTemplates")}
        assert mounts[str(settings.data_dir)] in claims
        assert mounts["/tmp"] in volumes
        assert set(mounts.values()) == volumes | claims
        assert WORKER.at("securityContext.readOnlyRootFilesystem").value is True

    def test_the_user_is_that_of_the_image(self) -> None:
        (user,) = re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert POD.at("securityContext.runAsUser").number == POD.at("securityContext.fsGroup").number == int(user)
        assert POD.at("securityContext.runAsNonRoot").value is True

    def test_it_has_no_rights(self) -> None:
        assert WORKER.at("securityContext.capabilities.drop").value == ["ALL"]
        assert WORKER.at("securityContext.allowPrivilegeEscalation").value is False
        assert POD.at("securityContext.seccompProfile.type").text == "RuntimeDefault"
        assert POD["automountServiceAccountToken"].value is False
        assert ("ServiceAccount", POD["serviceAccountName"].text) in objects()

    def test_the_image_has_a_version(self) -> None:
        name, _, tag = WORKER["image"].text.rpartition(":")
        (image,) = objects()["Kustomization", ""]["images"]
        assert image["name"].text == name
        assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
        assert image["newTag"].text == tag

    def test_the_budget_is_of_the_workers(self) -> None:
        budget = objects()["PodDisruptionBudget", "port-runs"]["spec"]
        assert budget["selector"].value == STATEFUL_SET.at("spec.selector").value
        assert budget["maxUnavailable"].number == 1


class TestAutoscaling:
    def test_no_worker_is_idle_and_one_is_always_there(self, settings: Settings) -> None:
        assert 1 <= SCALED["minReplicaCount"].number <= SCALED["maxReplicaCount"].number <= settings.partitions
        assert SCALED.at("scaleTargetRef.name").text == "port-runs"

    def test_it_looks_at_the_lag_of_what_the_workers_read(self, settings: Settings) -> None:
        topics = topics_of(settings)
        triggers = [trigger["metadata"].texts for trigger in SCALED["triggers"]]
        assert {one["topic"] for one in triggers} == {topics.runs.name, topics.arrivals.name}
        assert {one["consumerGroup"] for one in triggers} == {settings.app_id}
        assert {one["bootstrapServersFromEnv"] for one in triggers} == {"KAFKA_BROKERS"}
        assert {one["sasl"] for one in triggers} == {settings.kafka_sasl_mechanism.replace("SCRAM-SHA-", "scram_sha")}
        assert {one["tls"] for one in triggers} == {"enable" if settings.own.protocol.tls else "disable"}

    def test_its_credentials_are_keys_of_the_secret(self) -> None:
        names = {trigger.at("authenticationRef.name").text for trigger in SCALED["triggers"]}
        (login,) = (objects()["TriggerAuthentication", name] for name in names)
        keys = {one["parameter"].text: one["key"].text for one in login.at("spec.secretTargetRef")}
        assert keys == {"username": "KAFKA_USERNAME", "password": "KAFKA_PASSWORD"}
        assert set(keys.values()) <= SECRET.keys()

    def test_what_a_worker_takes_on_leaves_a_lag_to_see(self, settings: Settings) -> None:
        assert settings.max_open < Settings.model_fields["max_open"].default


def metrics() -> set[str]:
    """The names of all time series of a worker."""
    return {name for metric in LIST.values() for name in metric.series}


def dashboard_queries() -> list[str]:
    """The queries of the dashboard, with some interval in the place of Grafana's."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [query.replace("$__rate_interval", "5m") for query in found]


def rules() -> list[Tree]:
    """The alerts."""
    return [rule for group in Tree(yaml.safe_load(ALERTS.read_text()))["groups"] for rule in group["rules"]]


def selectors(expression: object) -> Iterator[promql_parser.VectorSelector]:
    """The time series that a PromQL expression asks for, wherever they stand in it."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    parts = (getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "vector_selector"))
    for part in parts:
        if isinstance(part, promql_parser.Expr):
            yield from selectors(part)
    yield from (found for one in getattr(expression, "args", []) for found in selectors(one))


def wrong_labels(expression: str) -> set[tuple[str, str]]:
    """Labels that a query asks a metric for, and that it does not have."""
    labels = {name: {*metric.labels, "le"} for metric in LIST.values() for name in metric.series}
    return {
        (one.name or "", matcher.name)
        for one in selectors(promql_parser.parse(expression))
        for matcher in one.matchers.matchers
        if matcher.name not in labels.get(one.name or "", set()) | {"instance", "job"}
    }


class TestDashboard:
    def test_every_metric_exists_with_its_labels(self) -> None:
        queries = dashboard_queries()
        named = set(re.findall(r"port_runs_\w+", "\n".join(queries)))
        assert named
        assert named <= metrics()
        assert {found for query in queries for found in wrong_labels(query)} == set()
        assert wrong_labels('port_runs_lag{tpoic="x"}') == {("port_runs_lag", "tpoic")}

    def test_every_metric_that_is_listed_is_on_it_or_is_left_out_on_purpose(self) -> None:
        asked = {one.name for query in dashboard_queries() for one in selectors(promql_parser.parse(query))}
        left_out = {name for name, metric in LIST.items() if asked.isdisjoint(metric.series)}
        assert left_out == {f"port_runs_{name}" for name in NOT_ON_THE_DASHBOARD}

    def test_states_exist(self) -> None:
        named = re.findall(r'state(?:=~|=|!=)\\"([\w|]+)\\"', DASHBOARD.read_text())
        assert named
        assert {state for several in named for state in several.split("|")} <= {state.value for state in State}

    def test_panels_have_numbers_of_their_own_and_cover_no_other(self) -> None:
        panels = json.loads(DASHBOARD.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24


class TestAlerts:
    def test_labels_exist(self) -> None:
        assert {found for rule in rules() for found in wrong_labels(rule["expr"].text)} == set()

    def test_a_worker_that_stands_still_is_told_as_healthz_tells_it(self) -> None:
        (rule,) = [rule for rule in rules() if rule["alert"].text == "PortRunsStandsStill"]
        assert rule["expr"].text.endswith(f"> {STUCK_SECONDS:g}")

    def test_every_metric_exists(self) -> None:
        asked = {one.name for rule in rules() for one in selectors(promql_parser.parse(rule["expr"].text))}
        named = set(re.findall(r"port_runs_\w+", "\n".join(rule["expr"].text for rule in rules())))
        assert asked - {"up"} == named
        assert named <= metrics()

    def test_states_exist(self) -> None:
        named = set(re.findall(r'state="(\w+)"', ALERTS.read_text()))
        assert named
        assert named <= {state.value for state in State}

    def test_the_number_of_partitions_is_that_of_the_manifests(self, settings: Settings) -> None:
        (rule,) = [rule for rule in rules() if rule["alert"].text == "PortRunsPartitionsNotOwned"]
        assert rule["expr"].text.endswith(f"< {settings.partitions}")
        assert f"Of {settings.partitions} partitions" in rule.at("annotations.summary").text

    def test_the_page_says_what_each_means_and_no_other(self) -> None:
        told = re.findall(r"^\| `(PortRuns\w+)` \|", OPERATIONS, re.MULTILINE)
        assert told == [rule["alert"].text for rule in rules()]

    def test_every_metric_of_the_page_exists(self) -> None:
        histograms = {name.removesuffix("_count") for name in metrics()}
        assert set(re.findall(r"\bport_runs_\w+", OPERATIONS)) <= metrics() | histograms


def check(folder: Path) -> list[str]:
    """What the script finds; in this process, which is quicker."""
    found = runpy.run_path(CHECK[1])["check"](folder)
    assert isinstance(found, list)
    return found


Change = Callable[[str], str]


def replaced(old: str, new: str) -> Change:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


class TestCheck:
    """What `make lint` runs, on a copy in which one thing is wrong."""

    def test_lint_runs_it(self) -> None:
        # Of a `make` that runs the tests it would be a part, and say so.
        alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        made = subprocess.run(["make", "-n", "lint"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
        assert "scripts/check_deploy.py deploy" in made.stdout.splitlines()[-1]

    def test_all_is_well(self) -> None:
        done = subprocess.run([*CHECK, "deploy"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize(
        ("name", "change", "said"),
        [
            ("kubernetes/stateful-set.yaml", replaced("minReadySeconds", "minReadySecond"), "minReadySecond"),
            ("kubernetes/stateful-set.yaml", replaced("path: /readyz", "pathh: /readyz"), "pathh"),
            ("kubernetes/stateful-set.yaml", replaced("containerPort: 6066", "containerPort: web"), "'web'"),
            ("kubernetes/stateful-set.yaml", replaced("apps/v1", "apps/v9"), "v9"),
            ("kubernetes/config.yaml", replaced('PARTITIONS: "8"', "PARTITIONS: 8"), "8 is not of type"),
            ("kubernetes/config.yaml", replaced("DATA_DIR: /data", "PORT_ORG_ID: other"), "PORT_ORG_ID stands twice"),
            ("kubernetes/services.yaml", replaced("publishNotReady", "publishUnready"), "publishUnreadyAddresses"),
            ("kubernetes/network-policy.yaml", replaced("podSelector:", "podSelectors:"), "podSelectors"),
            ("kubernetes/disruption-budget.yaml", replaced("policy/v1", "policy/v1beta1"), "policy/v1beta1"),
            ("kubernetes/autoscaling.yaml", replaced("maxReplicaCount", "maxReplicas"), "spec.maxReplicas"),
            ("kubernetes/autoscaling.yaml", replaced("lagThreshold", "lagTreshold"), "metadata.lagTreshold"),
            ("kubernetes/autoscaling.yaml", replaced('"1000"', "1000"), "lagThreshold"),
            ("kubernetes/autoscaling.yaml", replaced("parameter: username", "parameter: user"), "parameter"),
            ("kubernetes/kustomization.yaml", replaced("  - services.yaml\n", ""), "services.yaml is missing"),
            ("kubernetes/kustomization.yaml", replaced("services.yaml", "service.yaml"), "there is no service.yaml"),
            ("kubernetes/kustomization.yaml", replaced("newTag", "tag"), "images.0.tag"),
            ("grafana/dashboard.json", replaced("sum(", "sum(("), "no PromQL"),
            ("grafana/dashboard.json", replaced('"unit"', '"units"'), "units"),
            ("grafana/dashboard.json", replaced('"gridPos"', '"gridpos"'), "gridpos"),
            ("grafana/dashboard.json", replaced('"panels"', '"panels'), "Invalid control character"),
            ("prometheus/alerts.yaml", replaced("absent(", "absent(("), "no PromQL"),
            ("prometheus/alerts.yaml", replaced("severity: critical", "severity: bad"), "severity"),
            ("prometheus/alerts.yaml", replaced("groups:", "group:"), "no apiVersion"),
        ],
    )
    def test_what_is_wrong_is_said(self, name: str, change: Change, said: str, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
        wrong = tmp_path / "deploy" / name
        wrong.write_text(change(wrong.read_text()))
        lines = check(tmp_path / "deploy")
        assert said in "\n".join(lines)
        assert all(line.startswith(f"{wrong}: ") for line in lines)

    def test_what_is_wrong_makes_lint_fail(self, tmp_path: Path) -> None:
        done = subprocess.run([*CHECK, str(tmp_path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"{tmp_path}: holds no YAML file\n")
