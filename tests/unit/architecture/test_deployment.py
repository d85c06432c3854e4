"""cluster.yaml, Kubernetes files, containers and workflows agree with the code and the pins."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sunloom.cli.environment import entry_of
from sunloom.cli.lock_hashes import is_for_this_platform
from sunloom.config import Settings, load_config
from sunloom.serving.app_table import APPS
from sunloom.serving.auth.api_keys import ensure_first_key, list_keys
from sunloom.serving.deploy.applications import AppArgs
from sunloom.serving.deploy.environment import closing_variables, serving_environment


def pins(root: Path) -> dict[str, str]:
    lines = (root / "requirements" / "cpu.lock").read_text().splitlines()
    return dict(line.split()[0].split("==") for line in lines if "==" in line)


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


def test_the_clusters_machines_keep_their_folders_and_roles(cluster: dict[str, Any]) -> None:
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        text = "\n".join(commands)
        assert "umask 077" in text
        assert "chmod 600 ~/.ray/auth_token" in text
    head = "\n".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "--temp-dir=$HOME/ray/r" in head
    for kind in cluster["available_node_types"].values():
        config = kind["node_config"]
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in config["BlockDeviceMappings"])


def kubernetes_documents(root: Path, *kinds: str) -> list[dict[str, Any]]:
    files = sorted((root / "deploy").glob("*.yaml"))
    documents = [doc for file in files for doc in yaml.safe_load_all(file.read_text()) if doc]
    return [doc for doc in documents if not kinds or doc["kind"] in kinds]


def pods(root: Path, *kinds: str) -> list[dict[str, Any]]:
    """The pod templates of the clusters, of all groups."""
    specs = [
        doc["spec"].get("rayClusterConfig", doc["spec"])
        for doc in kubernetes_documents(root, *(kinds or ("RayCluster", "RayService")))
    ]
    groups = [
        group for spec in specs for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]
    return [group["template"] for group in groups]


def environment_of(pod: dict[str, Any]) -> dict[str, str]:
    """The variables of its one container; a secret's are named by the secret."""
    (container,) = pod["spec"]["containers"]
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {
        entry["name"]: entry["value"]
        if "value" in entry
        else "{name}/{key}".format(**entry["valueFrom"]["secretKeyRef"])
        for entry in container["env"]
    }


def settings_of(root: Path, environment: dict[str, str]) -> Settings:
    environ = environment | {"SUNLOOM__DATABASE__URL": "postgresql+psycopg://u:p@host/sunloom"}
    return load_config(Settings, environ=environ, conf_dir=root / "conf").config


def test_kubernetes_runs_the_ray_of_the_lock(project_root: Path) -> None:
    clusters = kubernetes_documents(project_root, "RayCluster", "RayService")
    assert {doc["kind"] for doc in clusters} == {"RayCluster", "RayService"}
    for doc in clusters:
        spec = doc["spec"].get("rayClusterConfig", doc["spec"])
        assert spec["rayVersion"] == pins(project_root)["ray"]
        assert spec["authOptions"] == {"mode": "token", "secretName": "sunloom-ray-token"}


def test_pods_have_the_least_rights(project_root: Path) -> None:
    templates = pods(project_root)
    assert len(templates) == 5
    for pod in templates:
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        closed = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == closed
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        # What is written lies on volumes that end with the pod.
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        written = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(written) == {
            "/tmp", "/home/sunloom", "/opt/sunloom/.sunloom", "/opt/sunloom/outputs"
        }  # fmt: skip
        assert all("sizeLimit" in volumes[name]["emptyDir"] for name in written.values())


def test_only_the_autoscaler_has_a_token_of_kubernetes(project_root: Path) -> None:
    (cluster,) = kubernetes_documents(project_root, "RayCluster")
    projected = [v["name"] for v in cluster["spec"]["headGroupSpec"]["template"]["spec"]["volumes"]
                 if "projected" in v]  # fmt: skip
    mounts = cluster["spec"]["autoscalerOptions"]["volumeMounts"]
    assert projected == ["api"]
    assert [mount["name"] for mount in mounts if mount["name"] in projected] == ["api"]
    for pod in pods(project_root):
        (container,) = pod["spec"]["containers"]
        assert "api" not in {mount["name"] for mount in container["volumeMounts"]}


def test_secrets_come_from_secret_objects(project_root: Path) -> None:
    for pod in pods(project_root):
        environment = environment_of(pod)
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == "sunloom-ray-token/auth_token"
        assert environment["SUNLOOM__DATABASE__URL"].endswith("/database_url")
        secret = re.compile("TOKEN|SECRET|PASSWORD|DATABASE__URL")
        plain = {e["name"] for e in pod["spec"]["containers"][0]["env"] if "value" in e}
        assert [name for name in plain if secret.search(name)] == []


def test_served_pods_are_as_closed_as_a_laptop(project_root: Path) -> None:
    """What ``sunloom serve`` sets for the same settings is what the pods have."""
    own_folder = {"_FOLDER", "_LOC", "_PATH", "_BASE", "_FILE"}
    for pod in pods(project_root, "RayService"):
        environment = environment_of(pod)
        settings = settings_of(project_root, environment)
        assert settings.environment == "production"
        assert settings.serving.loopback_only is True
        assert (settings.serving.host, settings.serving.connections_per_source) == ("0.0.0.0", 0)
        closing = closing_variables(settings.serving)
        assert {name: environment.get(name) for name in closing} == closing
        laptop = serving_environment(settings)
        folders = [name for name in laptop if any(name.endswith(end) for end in own_folder)]
        folders.remove("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH")
        folders.remove("RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH")
        assert len(folders) == 6
        assert {environment[name].startswith("/tmp/sunloom-serving") for name in folders} == {True}
        assert environment["SUNLOOM_SERVING_PROXY_TOKEN"] == "sunloom-serving/proxy_token"


def test_other_pods_reach_the_gateways_port_only(project_root: Path) -> None:
    policies = {doc["metadata"]["name"]: doc["spec"]
                for doc in kubernetes_documents(project_root, "NetworkPolicy")}  # fmt: skip
    assert set(policies) == {"sunloom-serving", "sunloom-jobs"}
    for kind, name, is_open in (
        ("RayService", "sunloom-serving", True),
        ("RayCluster", "sunloom-jobs", False),
    ):
        policy = policies[name]
        labels = policy["podSelector"]["matchLabels"]
        for pod in pods(project_root, kind):
            assert pod["metadata"]["labels"] == labels
        assert policy["policyTypes"] == ["Ingress"]
        to_all = [rule["ports"] for rule in policy["ingress"] if "from" not in rule]
        assert to_all == ([[{"port": 8000, "protocol": "TCP"}]] if is_open else [])
        among, operator = (rule for rule in policy["ingress"] if "from" in rule)
        assert among == {"from": [{"podSelector": {"matchLabels": labels}}]}
        assert operator["ports"] == [{"port": 8265, "protocol": "TCP"}]


def test_kubernetes_serves_what_sunloom_serve_does(project_root: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    (service,) = kubernetes_documents(project_root, "RayService")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    rendered = [(app.name, app.route_prefix) for app in schema.applications]
    assert rendered == [(app.name, app.prefix) for app in APPS.values()]
    for application in schema.applications:
        module, _, function = application.import_path.partition(":")
        source = project_root / f"{module.replace('.', '/')}.py"
        assert f"def {function}(" in source.read_text()
        assert application.name in module
        args = AppArgs.model_validate(application.args)
        assert (args.env, args.sets) == ("production", [])


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


def test_pins_are_complete_have_hashes_and_name_no_index(project_root: Path) -> None:
    entry = re.compile(r"[\w.-]+==[\w.+-]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n")
    for name in ("cpu.lock", "cuda-runtime.lock"):
        text = (project_root / "requirements" / name).read_text()
        assert "://" not in text
        assert entry.sub("", text) == ""


def test_every_install_of_a_lock_checks_hashes(project_root: Path) -> None:
    for name in ("Dockerfile", "cluster.yaml", "platform/sunloom/cli/environment.py"):
        text = (project_root / name).read_text()
        # uv with the system's pip, and the locks with uv.
        assert text.count("--require-hashes") == 2, name


def test_the_lines_that_install_uv_take_its_whole_entry(project_root: Path) -> None:
    for name in ("Dockerfile", "cluster.yaml"):
        (script,) = re.findall(r"sed -n '(.*)'", (project_root / name).read_text())
        lock = str(project_root / "requirements" / "cpu.lock")
        cut = subprocess.run(
            ["sed", "-n", script, lock], capture_output=True, text=True, check=True
        )
        assert cut.stdout == entry_of("uv", Path(lock).read_text())
        assert cut.stdout.startswith("uv==")
        assert cut.stdout.count("--hash=sha256:") == 1


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("cryptography-49.0-cp38-abi3-manylinux_2_28_x86_64.whl", True),
        ("six-1.17-py2.py3-none-any.whl", True),
        ("numpy-2.4-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("numpy-2.4-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("numpy-2.4-cp311-cp311-manylinux_2_28_aarch64.whl", False),
    ],
)
def test_hashes_are_those_of_this_platforms_wheels(wheel: str, fits: bool) -> None:
    assert is_for_this_platform(wheel) is fits


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
    services = compose["services"]
    assert [p for service in services.values() for p in service.get("ports", [])] == [
        "127.0.0.1:8000:8000"
    ]
    assert compose["networks"]["database"] == {"internal": True}
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
    assert services["gateway"]["read_only"] is True


def test_compose_runs_production_and_makes_no_key(project_root: Path, tmp_path: Path) -> None:
    text = (project_root / "compose.yaml").read_text()
    gateway = yaml.safe_load(text)["services"]["gateway"]
    image = (project_root / "Dockerfile").read_text()
    assert "SUNLOOM__SERVING__HOST=0.0.0.0" in image
    settings = settings_of(
        project_root, gateway["environment"] | {"SUNLOOM__SERVING__HOST": "0.0.0.0"}
    )
    assert settings.environment == "production"
    # A private Ray, as on a laptop.
    assert settings.cluster.address is None
    assert settings.cluster.dashboard_host == "127.0.0.1"
    assert settings.serving.loopback_only is True
    local = settings.model_copy(
        update={"database": settings.database.model_copy(update={"url": None}),
                "paths": settings.paths.model_copy(update={"state": tmp_path})}
    )  # fmt: skip
    assert ensure_first_key(local) is None
    assert list_keys(local) == []
    # The command is one that there is.
    command = re.search(r"exec gateway (sunloom keys create --scopes \S+)", text)
    assert command is not None
    assert command[1] in (project_root / "README.md").read_text()
