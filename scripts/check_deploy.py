"""Checks what is under deploy/, without a cluster and without network: check_deploy.py FOLDER.

Every YAML document has to fit its schema, with no field that the schema does not know: a misspelt one would do nothing,
and nobody would see it. Kinds of Kubernetes itself are held against its published schemas, those of KEDA, kustomize and
Prometheus against the models below, which have the fields that are in use here and no others; so are the dashboards of
Grafana, in JSON. Alerts and queries have to be PromQL. Every file is in the kustomization of its folder, or an example.
Exit status 1, and a line for each thing that is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import promql_parser
import yaml
from kubernetes_validate import SchemaNotFoundError, validate
from kubernetes_validate import ValidationError as NotOfTheSchema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

VERSIONS: Final = ("1.30", "1.37")
"""Of Kubernetes: the oldest and the newest that the manifests have to fit."""
KUSTOMIZATION: Final = "kustomization.yaml"
EXAMPLE: Final = ".example.yaml"
Document: TypeAlias = Mapping[str, object]


class Strict(BaseModel):
    """Takes no field that it does not name, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    """What the manifests say of an object of a kind that Kubernetes itself does not have."""

    name: str
    labels: dict[str, str] = {}


# KEDA, by its CRDs and its Kafka scaler (2.17). The CRD takes any metadata of a trigger, and the scaler ignores what it
# does not know.

Flag: TypeAlias = Literal["true", "false"]


class KafkaMetadata(Strict):
    """The metadata of the trigger `kafka`: texts, all of them."""

    bootstrapServersFromEnv: str
    consumerGroup: str
    topic: str
    lagThreshold: Annotated[str, Field(pattern=r"^[1-9]\d*$")]
    offsetResetPolicy: Literal["earliest", "latest"] = "latest"
    allowIdleConsumers: Flag = "false"
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "1.0.0"
    sasl: Literal["none", "plaintext", "scram_sha256", "scram_sha512"] = "none"
    tls: Literal["enable", "disable"] = "disable"


class Named(Strict):
    """A reference to an object of the same namespace."""

    name: str


class Trigger(Strict):
    """What the number of replicas follows."""

    type: Literal["kafka"]
    metadata: KafkaMetadata
    authenticationRef: Named | None = None


class Policy(Strict):
    """How much may change in a time."""

    type: Literal["Pods", "Percent"]
    value: Annotated[int, Field(ge=1)]
    periodSeconds: Annotated[int, Field(ge=1, le=1800)]


class Direction(Strict):
    """How the number of replicas goes up, or down."""

    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600)]
    policies: Annotated[list[Policy], Field(min_length=1)]


class Behavior(Strict):
    """Both directions."""

    scaleUp: Direction
    scaleDown: Direction


class AutoscalerConfig(Strict):
    """What KEDA passes on to the HorizontalPodAutoscaler that it makes."""

    behavior: Behavior


class Advanced(Strict):
    """Further settings of a ScaledObject."""

    horizontalPodAutoscalerConfig: AutoscalerConfig


class Target(Strict):
    """What is scaled."""

    apiVersion: Literal["apps/v1"]
    kind: Literal["StatefulSet", "Deployment"]
    name: str


class ScaledObjectSpec(Strict):
    """How many replicas there are, and by what."""

    scaleTargetRef: Target
    minReplicaCount: Annotated[int, Field(ge=0)]
    maxReplicaCount: Annotated[int, Field(ge=1)]
    pollingInterval: Annotated[int, Field(ge=1)]
    advanced: Advanced
    triggers: Annotated[list[Trigger], Field(min_length=1)]


class ScaledObject(Strict):
    """KEDA's ScaledObject."""

    apiVersion: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


class SecretKey(Strict):
    """A parameter of a trigger that is in a Secret."""

    parameter: Literal["username", "password", "ca", "cert", "key", "sasl", "tls"]
    name: str
    key: str


class TriggerAuthenticationSpec(Strict):
    """Where a trigger's credentials are."""

    secretTargetRef: Annotated[list[SecretKey], Field(min_length=1)]


class TriggerAuthentication(Strict):
    """KEDA's TriggerAuthentication."""

    apiVersion: Literal["keda.sh/v1alpha1"]
    kind: Literal["TriggerAuthentication"]
    metadata: Metadata
    spec: TriggerAuthenticationSpec


class Labels(Strict):
    """Labels that kustomize adds to every object."""

    pairs: dict[str, str]


class Image(Strict):
    """Where an image of the manifests is pulled from."""

    name: str
    newName: str
    newTag: str


class Kustomization(Strict):
    """kustomize's list of what belongs together."""

    apiVersion: Literal["kustomize.config.k8s.io/v1beta1"]
    kind: Literal["Kustomization"]
    namespace: str
    labels: list[Labels] = []
    images: list[Image] = []
    resources: Annotated[list[str], Field(min_length=1)]


def _promql(text: str) -> str:
    try:
        promql_parser.parse(text)
    except ValueError as wrong:
        raise ValueError(f"no PromQL: {wrong}") from None
    return text


Duration: TypeAlias = Annotated[str, Field(pattern=r"^\d+[smhd]$")]


class Alert(Strict):
    """An alerting rule of Prometheus."""

    alert: Annotated[str, Field(pattern=r"^PortRuns[A-Za-z]+$")]
    expr: Annotated[str, AfterValidator(_promql)]
    for_: Annotated[Duration, Field(alias="for")]
    labels: dict[Literal["severity"], Literal["critical", "warning", "info"]]
    annotations: dict[Literal["summary"], str]


class Group(Strict):
    """Rules that are evaluated together."""

    name: str
    rules: Annotated[list[Alert], Field(min_length=1)]


class Rules(Strict):
    """A file of rules, as Prometheus reads it."""

    groups: Annotated[list[Group], Field(min_length=1)]


# Grafana's dashboards, by its JSON model (schema 39). Grafana ignores what it does not know.


class GridPos(Strict):
    """Where a panel is, in columns of 24 and rows."""

    h: Annotated[int, Field(ge=1)]
    w: Annotated[int, Field(ge=1, le=24)]
    x: Annotated[int, Field(ge=0, le=23)]
    y: Annotated[int, Field(ge=0)]


class DataSource(Strict):
    """The one that whoever looks at the dashboard has chosen."""

    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Query(Strict):
    """A query of a panel."""

    refId: str
    datasource: DataSource
    expr: Annotated[str, AfterValidator(lambda text: _promql(without_variables(text)) and text)]
    legendFormat: str


class FieldConfig(Strict):
    """Units and looks of a panel's values."""

    defaults: dict[Literal["unit", "min", "custom", "thresholds"], object]
    overrides: list[object]


class Row(Strict):
    """The heading of the panels below it."""

    id: int
    type: Literal["row"]
    title: str
    collapsed: Literal[False]
    gridPos: GridPos
    panels: Annotated[list[object], Field(max_length=0)]


class Panel(Strict):
    """A chart, or a number."""

    id: int
    type: Literal["timeseries", "stat"]
    title: str
    description: Annotated[str, Field(min_length=1)]
    datasource: DataSource
    gridPos: GridPos
    fieldConfig: FieldConfig
    options: dict[str, object]
    targets: Annotated[list[Query], Field(min_length=1)]


class Variable(Strict):
    """What whoever looks at a dashboard may choose."""

    name: str
    type: Literal["datasource", "query"]
    label: str
    query: str
    datasource: DataSource | None = None
    refresh: Literal[0, 1, 2] = 0
    multi: bool = False
    includeAll: bool = False
    allValue: str = ""


class Templating(Strict):
    """The variables of a dashboard."""

    list: list[Variable]


class Span(Strict):
    """The time that is shown at first."""

    from_: Annotated[str, Field(alias="from")]
    to: str


class Dashboard(Strict):
    """A dashboard, to be imported."""

    uid: str
    title: str
    description: str
    tags: list[str]
    schemaVersion: Literal[39]
    editable: bool
    refresh: str
    timezone: str
    time: Span
    templating: Templating
    panels: Annotated[list[Annotated[Row | Panel, Field(discriminator="type")]], Field(min_length=1)]


def without_variables(expression: str) -> str:
    """Return a query as Prometheus may be asked it, with some interval in the place of Grafana's."""
    return expression.replace("$__rate_interval", "5m")


MODELS: Final[Mapping[object, type[Strict]]] = {
    "ScaledObject": ScaledObject,
    "TriggerAuthentication": TriggerAuthentication,
    "Kustomization": Kustomization,
}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; YAML's own loader takes the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(problem=f"{twice} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[Document]:
    """Return the YAML documents of a file. Raises yaml.YAMLError; ValueError where one is no mapping."""
    # The loader is a safe one.
    found: list[object] = list(yaml.load_all(path.read_text(), Loader=_Loader))
    if wrong := [one for one in found if not isinstance(one, dict)]:
        raise ValueError(f"{wrong[0]!r} is no mapping")
    return [one for one in found if isinstance(one, dict)]


def _against_model(model: type[Strict], document: Document) -> Iterator[str]:
    try:
        model.model_validate(document)
    except ValidationError as wrong:
        yield from (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in wrong.errors())


def _against_kubernetes(document: Document) -> Iterator[str]:
    if not {"apiVersion", "kind"} <= document.keys():
        yield "has no apiVersion, or no kind"
        return
    for version in VERSIONS:
        try:
            validate(document, version, strict=True)
        except NotOfTheSchema as wrong:
            yield f"Kubernetes {version}: {'.'.join(map(str, wrong.path)) or 'the object'}: {wrong.message}"
        except SchemaNotFoundError as unknown:
            yield f"Kubernetes {version}: {unknown.message}"


def _wrong_in(path: Path) -> Iterator[str]:
    for document in documents(path):
        if model := MODELS.get(document.get("kind")) or (Rules if "groups" in document else None):
            yield from _against_model(model, document)
        else:
            yield from _against_kubernetes(document)
        if path.name == KUSTOMIZATION:
            yield from _not_listed(path.parent, document)


def _not_listed(folder: Path, kustomization: Document) -> Iterator[str]:
    resources = kustomization.get("resources")
    listed = {str(one) for one in resources} if isinstance(resources, list) else set()
    there = {path.name for path in folder.glob("*.yaml")} - {KUSTOMIZATION}
    yield from (f"resources: there is no {name}" for name in sorted(listed - there))
    yield from (f"resources: {name} is missing" for name in sorted(there - listed) if not name.endswith(EXAMPLE))


def check(folder: Path) -> list[str]:
    """Return a line for each thing that is wrong in the YAML and JSON files of a folder and of those below it."""
    lines = []
    for path in sorted(folder.rglob("*.json")):
        try:
            lines += [f"{path}: {wrong}" for wrong in _against_model(Dashboard, json.loads(path.read_text()))]
        except ValueError as wrong:
            lines.append(f"{path}: {wrong}")
    for path in sorted(folder.rglob("*.yaml")):
        try:
            lines += [f"{path}: {wrong}" for wrong in _wrong_in(path)]
        except (yaml.YAMLError, ValueError) as wrong:
            lines.append(f"{path}: {' '.join(str(wrong).split())}")
    return lines or ([] if any(folder.rglob("*.yaml")) else [f"{folder}: holds no YAML file"])


def main(arguments: list[str], say: Callable[[str], object] = sys.stderr.write) -> int:
    """Check the folder that is named; return the exit status."""
    wrong = check(Path(arguments[0]))
    for line in wrong:
        say(f"{line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
