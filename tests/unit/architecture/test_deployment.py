"""cluster.yaml, Kubernetes files, containers and workflows agree with the code and the pins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml


def pins(root: Path) -> dict[str, str]:
    lines = (root / "requirements" / "cpu.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.fixture(scope="module")
def cluster(project_root: Path) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((project_root / "cluster.yaml").read_text()))
    validate_config(config)
    return dict(config)


def test_the_head_runs_no_work_and_workers_scale(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0
    workers = [kind for name, kind in types.items() if name != cluster["head_node_type"]]
    assert all(kind["min_workers"] < kind["max_workers"] for kind in workers)
    with_gpu = [bool(kind["resources"].get("GPU")) for kind in workers]
    assert any(with_gpu)
    assert not all(with_gpu)


def test_what_rays_schema_does_not_see(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["region"]
    assert cluster["auth"]["ssh_user"]
    for name, kind in cluster["available_node_types"].items():
        assert kind["max_workers"] <= cluster["max_workers"], name
        assert kind["node_config"]["ImageId"], name
        assert kind["node_config"]["InstanceType"], name


def test_the_cluster_installs_the_locks_and_asks_for_a_token(project_root: Path) -> None:
    config = yaml.safe_load((project_root / "cluster.yaml").read_text())
    mounted = config["file_mounts"]
    assert "requirements" in mounted.values()
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)


def kubernetes_documents(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "deploy").glob("*.yaml"))
    return [doc for file in files for doc in yaml.safe_load_all(file.read_text()) if doc]


def test_kubernetes_runs_the_ray_of_the_lock(project_root: Path) -> None:
    documents = kubernetes_documents(project_root)
    assert {doc["kind"] for doc in documents} == {"RayCluster", "RayService"}
    for doc in documents:
        spec = doc["spec"].get("rayClusterConfig", doc["spec"])
        assert spec["rayVersion"] == pins(project_root)["ray"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            (container,) = group["template"]["spec"]["containers"]
            assert "RAY_AUTH_MODE" in {entry["name"] for entry in container["env"]}
            assert container["resources"]["limits"]["memory"]


def test_kubernetes_serves_our_builders(project_root: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    services = [d for d in kubernetes_documents(project_root) if d["kind"] == "RayService"]
    for service in services:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
        for application in schema.applications:
            module, _, function = application.import_path.partition(":")
            source = project_root / f"{module.replace('.', '/')}.py"
            assert f"def {function}(" in source.read_text()


def test_ci_runs_one_script_and_the_script_runs_make(project_root: Path) -> None:
    workflow = yaml.safe_load((project_root / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["checks"]["steps"]
    assert ".ci/run" in [step.get("run") for step in steps]
    script = (project_root / ".ci/run").read_text()
    assert "set -euo pipefail" in script
    assert "REQUIRE_SERVICES=1 make test" in script
    lint = (project_root / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert [
        word for word in ("ruff check", "ruff format", "mypy", "lint-imports") if word not in lint
    ] == []


def test_every_workflow_only_reads(project_root: Path) -> None:
    for file in (project_root / ".github/workflows").glob("*.yml"):
        assert yaml.safe_load(file.read_text())["permissions"] == {"contents": "read"}


def test_pins_are_complete_and_name_no_index(project_root: Path) -> None:
    for name in ("cpu.lock", "cuda-runtime.lock"):
        text = (project_root / "requirements" / name).read_text()
        assert "://" not in text
        assert [ln for ln in text.splitlines() if not re.fullmatch(r"[\w.-]+==[\w.+-]+", ln)] == []


def test_extras_are_in_the_lock_with_a_version_that_fits(project_root: Path) -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {canonicalize_name(name): version for name, version in pins(project_root).items()}
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [line for name, lines in extras.items() if name != "vllm" for line in lines]
    for line in [*project["dependencies"], *wanted]:
        requirement = Requirement(line)
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line}: the lock has {version}"


def test_the_image_ships_what_it_copies(project_root: Path) -> None:
    text = (project_root / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]]
    assert [word for word in copied if not (project_root / word).exists()] == []
    assert re.search(r"^USER sunloom$", text, re.M)


def test_compose_opens_the_gateway_to_this_host_only(project_root: Path) -> None:
    compose = yaml.safe_load((project_root / "compose.yaml").read_text())
    ports = [p for service in compose["services"].values() for p in service.get("ports", [])]
    assert ports == ["127.0.0.1:8000:8000"]
