"""The Kubernetes manifest: fields that KubeRay knows, and parts that fit each other and our code."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from offload.scale_out.replica import Replica, ReplicaOptions, build
from offload.wire.service import STREAM, UNARY
from tercel.core.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray, about itself
FOLDER = Path(__file__).resolve().parents[2] / "launch" / "cloud"


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these fields, some of them required, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, COUNT, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
PORT_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 15}
CONTAINER = closed(
    "name image",
    name=NAME,
    image=TEXT,
    env=many(closed("name value", name=TEXT, value=TEXT)),
    ports=many(closed("containerPort", name=PORT_NAME, containerPort={"type": "integer", "maximum": 65535})),
    resources=closed(limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts=many(closed("name mountPath", name=NAME, mountPath=TEXT, readOnly=TRUTH)),
)
VOLUME = closed(
    "name",
    name=NAME,
    persistentVolumeClaim=closed("claimName", claimName=TEXT, readOnly=TRUTH),
    secret=closed("secretName", secretName=TEXT),
)
POD = closed("spec", spec=closed("containers", containers=many(CONTAINER), volumes=many(VOLUME)))
GROUP = closed(
    "groupName minReplicas maxReplicas template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)
# Names, types and enumerations of ray.io/v1, as KubeRay 1.7.0 has them, of the fields that are in use here.
RAY_SERVICE = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=closed("name", name=NAME),
    spec=closed(
        "rayClusterConfig serveConfigV2",
        serveConfigV2=TEXT,
        excludeHeadPodFromServeSvc=TRUTH,
        rayClusterConfig=closed(
            "headGroupSpec",
            rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
            enableInTreeAutoscaling=TRUTH,
            autoscalerOptions=closed(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
            headGroupSpec=closed("template", rayStartParams=TEXTS, template=POD),
            workerGroupSpecs=many(GROUP),
        ),
    ),
)


@pytest.fixture
def manifest() -> Any:
    return YAML(typ="safe").load(FOLDER / "rayservice.yaml")


def serve_config(manifest: Any) -> Any:
    return YAML(typ="safe").load(manifest["spec"]["serveConfigV2"])


def containers(manifest: Any) -> list[Any]:
    cluster = manifest["spec"]["rayClusterConfig"]
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return [container for pod in pods for container in pod["spec"]["containers"]]


def test_the_manifest_has_fields_that_kuberay_knows_and_values_that_it_takes(manifest: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(RAY_SERVICE)
    jsonschema.validate(manifest, RAY_SERVICE)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["spec"].update(serveConfig=m["spec"].pop("serveConfigV2")),
        lambda m: m["spec"]["rayClusterConfig"].pop("headGroupSpec"),
        lambda m: m["spec"]["rayClusterConfig"].update(rayVersion=2.6),
        lambda m: m["spec"]["rayClusterConfig"]["authOptions"].update(mode="on"),
        lambda m: m["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda m: m["spec"]["rayClusterConfig"]["workerGroupSpecs"][0].update(maxReplica=4),
        lambda m: containers(m)[1]["ports"][0].update(name="a-name-that-is-too-long"),
        lambda m: containers(m)[0].pop("image"),
    ],
)
def test_a_manifest_with_a_mistake_in_it_is_found(manifest: Any, damage: Callable[[Any], Any]) -> None:
    damaged = copy.deepcopy(manifest)
    damage(damaged)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, RAY_SERVICE)


def test_its_serve_config_names_functions_that_are_there_and_arguments_that_they_take(manifest: Any) -> None:
    config = serve_config(manifest)
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is build
    (added,) = config["grpc_options"]["grpc_servicer_functions"]
    module, _, name = added.partition(":")
    assert list(inspect.signature(getattr(importlib.import_module(module), name)).parameters) == ["servicer", "server"]
    args = application["args"]
    ReplicaOptions(**{**args, "replicas": tuple(args["replicas"])})
    pytest.importorskip("ray", reason="ray is not installed: pip install 'tercel[ray]'")
    build(args)


def test_its_pods_have_the_files_the_ports_and_the_room_that_its_replicas_want(manifest: Any) -> None:
    config = serve_config(manifest)
    args = config["applications"][0]["args"]
    cluster = manifest["spec"]["rayClusterConfig"]
    for container in containers(manifest):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["serve-grpc"] == config["grpc_options"]["port"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts[args["models"]]["readOnly"]
        assert any(args["token_file"].startswith(f"{path}/") for path in mounts)
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    for pod in (cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]):
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert volumes == {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    (workers,) = cluster["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    least, most = (count * args["threads"] for count in args["replicas"])
    assert least <= workers["minReplicas"] * cpus
    assert most <= workers["maxReplicas"] * cpus
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no replica beside Ray's own processes
    assert cluster["authOptions"]["mode"] == "token"
    image = re.search(r"^FROM rayproject/ray:([\d.]+)-", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert image is not None
    assert image[1] == cluster["rayVersion"]


def test_a_replica_has_every_method_of_the_protocol_as_a_proxy_calls_it() -> None:
    for method in (*UNARY, STREAM):
        assert "grpc_context" in inspect.signature(getattr(Replica, method)).parameters


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'threads'"):
        build({"models": "/models", "thread": 2})
    with pytest.raises(UserError, match="models is missing"):
        build({"threads": 2})
    with pytest.raises(UserError, match="replicas 3:1: write MIN:MAX"):
        build({"models": "/models", "replicas": [3, 1]})
