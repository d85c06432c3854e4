"""Trainings over HTTP: what a request may choose, and whose trainings its key reaches."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from patience import patience
from small_gateway import small_gateway
from small_job_server import SmallJobServer, small_job_server

from sunloom.cli.gateway import parse_events
from sunloom.config import Settings, load_config
from sunloom.core.jobs import job_client, withheld_secrets
from sunloom.core.model_registry import open_registry
from sunloom.core.progress import StepProgress
from sunloom.serving.auth.api_keys import create_key, revoke_key

ROOT = Path(__file__).parents[3]
Send = Callable[..., httpx.Response]
BOUNDS = {"max_steps": 500, "max_workers": 2, "max_running": 2}
OWN = {"output.name": "own"}


@pytest.fixture(scope="module")
def jobs() -> Iterator[SmallJobServer]:
    with small_job_server() as server:
        yield server


@pytest.fixture(scope="module")
def settings(jobs: SmallJobServer, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("training")
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    sets += [f"cluster.job_address={jobs.url}", "cluster.address=127.0.0.1:6399"]
    sets += [f"serving.training.bounds={json.dumps(BOUNDS)}", "serving.training.event_streams=2"]
    sets += ["serving.training.models=[Qwen/Qwen3-0.6B]"]
    sets += ["serving.training.tenants={rich: {max_steps: 9000, max_running: 100}}"]
    return load_config(Settings, sets=sets, conf_dir=ROOT / "conf").config


@pytest.fixture(scope="module")
def send(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Send]:
    """Sends a request with the key of a tenant; ``admin`` is the key that may do everything."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    registry = open_registry(settings)
    registry.register("small-base", "llm", folder)
    registry.register("retail-agent", "adapter", folder)
    for tenant in ("acme", "evil"):
        registry.register(f"{tenant}-model", "adapter", folder, tenant=tenant)
    # A project of few files: a submission reads all of them.
    root = tmp_path_factory.mktemp("project")
    for name in ("jobs", "conf"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "platform" / "sunloom").mkdir(parents=True)
    keys = {
        tenant: create_key(settings, ["train", "models"], tenant)[0]
        for tenant in ("acme", "evil", "rich", "default")
    }
    with pytest.MonkeyPatch.context() as patch, small_gateway(settings) as client:
        patch.chdir(root)
        # The client would let them override the address that it is given.
        patch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
        patch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")

        def request(tenant: str, method: str, path: str, **more: Any) -> httpx.Response:
            headers = more.pop("headers", {})
            if tenant in keys:
                headers = {"Authorization": f"Bearer {keys[tenant]}", **headers}
            return client.request(method, path, headers=headers, **more)

        yield request


@pytest.fixture(autouse=True)
def no_jobs(jobs: SmallJobServer) -> None:
    jobs.jobs.clear()
    jobs.submitted.clear()


def train(send: Send, overrides: dict[str, Any], tenant: str = "acme") -> httpx.Response:
    body = {"recipe": "retail_agent", "overrides": overrides}
    return send(tenant, "POST", "/llm/train", json=body)


@pytest.mark.parametrize(
    ("overrides", "param", "said"),
    [
        ({"model": {"trust_remote_code": True}}, "model.trust_remote_code", "cannot be set"),
        ({"model.revision": "main"}, "model.revision", "cannot be set"),
        ({"model": {"base_model": "/etc"}}, "model.base_model", "no base model"),
        ({"model": {"base_model": "conf"}}, "model.base_model", "no base model"),
        ({"model": {"base_model": "OWNER/REPO"}}, "model.base_model", "no base model"),
        ({"model": {"base_model": "Qwen/Qwen3-0.6B@x"}}, "model.base_model", "no base model"),
        ({"model": {"base_model": "evil-model"}}, "model.base_model", "no base model"),
        ({"model": {"base_model": "acme-model"}}, "model.base_model", "is of the kind adapter"),
        ({"model": {"base_model": ["a"]}}, "model.base_model", "not a list"),
        ({"training": {"resume_from": "/root"}}, "training.resume_from", "cannot be set"),
        ({"training.trackers": ["file"]}, "training.trackers", "cannot be set"),
        ({"training.max_steps": 501}, "training.max_steps", "must be 1 to 500, not 501"),
        ({"training.max_steps": True}, "training.max_steps", "must be 1 to 500, not true"),
        ({"training.max_steps": "5"}, "training.max_steps", "must be 1 to 500, not '5'"),
        ({"training.max_steps": 10**18}, "training.max_steps", "not 1000000000000000000"),
        ({"training": {"workers": 3}}, "training.workers", "must be 1 to 2, not 3"),
        ({"training": {"workers": {"a": {"b": 1}}}}, "training.workers", "not an object"),
        ({"training.batch_size": 65}, "training.batch_size", "must be 1 to 64"),
        (
            {"training": {"batch_size": 9, "gradient_accumulation_steps": 4}},
            "training.batch_size",
            "learn from 72 conversations; at most 64",
        ),
        ({"data.train": [{"path": "/etc/passwd"}]}, "data.train", "cannot be set"),
        ({"training.learning_rate": 0}, "training.learning_rate", "must be above 0 to 1"),
        ({"model.torch_dtype": "float64"}, "model.torch_dtype", "auto or float32 or bfloat16"),
        ({"lora.r": 33}, "lora.r", "must be 1 to 32"),
        ({"lora.target_modules": "(a+)+$"}, "lora.target_modules", "cannot be set"),
        ({"data.max_length": 4096}, "data.max_length", "must be 16 to 1024"),
        ({"data.conversations": "nope"}, "data.conversations", "no conversations"),
        ({"evaluation": {"min_exact_match": 0}}, "evaluation.min_exact_match", "cannot be set"),
        ({"evaluation.min_exact_match": 0}, "evaluation.min_exact_match", "cannot be set"),
        ({"output": {"name": "../../escaped/dir"}}, "output.name", "a name of up to 100"),
        ({"output": {"name": "small-base"}}, "output.name", "is taken"),
        ({"output": {"name": "tool-base"}}, "output.name", "packaged base model"),
        ({"output": {"name": "evil-model"}}, "output.name", "is taken"),
        ({"output.alias": "7"}, "output.alias", "a word of up to 60"),
        ({"output.tenant": "evil"}, "output.tenant", "cannot be set"),
        ({"paths.state": "/elsewhere"}, "paths.state", "cannot be set"),
        ({"training.step": 5}, "training.step", "cannot be set"),
        ({"a" * 300: 1}, "a" * 60, "cannot be set"),
        ({}, "output.name", "is taken"),
    ],
    ids=lambda value: (
        str(value)[:30].encode("ascii", "replace").decode() if isinstance(value, dict) else ""
    ),
)
def test_what_is_the_operators_is_refused_by_name(
    send: Send, jobs: SmallJobServer, overrides: dict[str, Any], param: str, said: str
) -> None:
    refused = train(send, overrides)
    error = refused.json()["error"]
    assert refused.status_code in (400, 404), error
    assert error["param"] == param, error
    assert said in error["message"]
    assert str(ROOT) not in refused.text
    if "cannot be set" in said or "must be" in said:
        assert "training.max_steps (1 to 500)" in error["hint"]
    assert jobs.submitted == []


@pytest.mark.parametrize("recipe", ["nope", "../../etc/passwd", "tool_base", "retail_agent.yaml"])
def test_an_unknown_recipe_is_refused_at_once(
    send: Send, jobs: SmallJobServer, recipe: str
) -> None:
    refused = send("acme", "POST", "/llm/train", json={"recipe": recipe})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (
        400 if recipe == "tool_base" else 404,
        "recipe",
    )
    if recipe == "nope":
        assert "retail_agent, retail_smollm2, tool_base" in error["hint"]
    assert jobs.submitted == []
    more = {"recipe": "retail_agent", "override": {}}
    assert send("acme", "POST", "/llm/train", json=more).status_code == 422


def test_a_request_within_its_bounds_is_submitted_with_its_tenant_and_address(
    send: Send, jobs: SmallJobServer
) -> None:
    given = {"training": {"max_steps": 9000, "learning_rate": 1e-5}, "lora.r": 8, "seed": 7, **OWN}
    for name in ("small-base@1", "Qwen/Qwen3-0.6B", "tool-base"):
        accepted = train(send, given | {"model.base_model": name}, "rich")
        assert accepted.status_code == 202, accepted.text
    submitted = jobs.submitted[0]
    assert accepted.json() == {
        "job_id": "raysubmit_2",
        "status_url": "/llm/training/raysubmit_2",
    }
    words = shlex.split(submitted["entrypoint"])
    assert words[:5] == ["python", "-m", "jobs.llm_train", "--config", "conf/llm/retail_agent.yaml"]
    sets = words[6::2]
    assert sets == [
        "training.max_steps=9000", "training.learning_rate=1e-05", "lora.r=8", "seed=7",
        'output.name="own"', 'model.base_model="small-base@1"', 'output.tenant="rich"',
    ]  # fmt: skip
    assert submitted["metadata"] == {
        "sunloom_job": "llm_train",
        "tenant": "rich",
        "recipe": "retail_agent",
        "overrides": json.dumps(given | {"model.base_model": "small-base@1"}),
    }
    variables = submitted["runtime_env"]["env_vars"]
    # Over what Ray gives the job, the first cluster of the machine that it finds, and over conf/.
    job = load_config(Settings, env="production", conf_dir=ROOT / "conf", environ=variables).config
    assert job.cluster.address == "127.0.0.1:6399"
    # The operator's own key goes on training the operator's models.
    for tenant in ("default", "admin"):
        assert train(send, {}, tenant).status_code == 202
        assert "output.tenant=null" in shlex.split(jobs.submitted[-1]["entrypoint"])


def test_a_job_gets_no_secret_that_it_has_no_use_for(
    send: Send, jobs: SmallJobServer, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    withheld = {"OPENAI_API_KEY", "HF_TOKEN", "SUNLOOM__TELEMETRY__WEBHOOK__URL", "AWS_SECRET"}
    kept = {"RAY_AUTH_TOKEN_PATH", "SUNLOOM__DATABASE__URL", "PGPASSWORD", "MAX_TOKENS"}
    for name in withheld:
        monkeypatch.setenv(name, "http://127.0.0.1:1/secret")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("MAX_TOKENS", "8")
    assert train(send, OWN).status_code == 202
    variables = jobs.submitted[0]["runtime_env"]["env_vars"]
    assert {name: variables.get(name) for name in withheld} == dict.fromkeys(withheld, "")
    assert kept & set(variables) == set()
    assert "secret" not in json.dumps(jobs.submitted)
    assert "HF_TOKEN" not in withheld_secrets(settings, ["HF_TOKEN"])
    # What is emptied counts as not set: the job's configuration loads without the webhook.
    empty = {name: variables[name] for name in withheld}
    assert load_config(Settings, environ=empty).config.telemetry.webhook is None


def test_a_tenant_has_only_so_many_trainings_at_once(send: Send, jobs: SmallJobServer) -> None:
    assert [train(send, OWN).status_code for _ in range(3)] == [202, 202, 429]
    assert train(send, {"output.name": "other"}, "evil").status_code == 202
    assert send("acme", "POST", "/llm/training/raysubmit_0/stop").status_code == 200
    assert train(send, OWN).status_code == 202
    assert len(jobs.submitted) == 4


def test_two_tenants_reach_only_their_own(
    send: Send, jobs: SmallJobServer, settings: Settings
) -> None:
    for job_id, metadata in (
        ("of-acme", {"tenant": "acme"}),
        ("of-evil", {"tenant": "evil"}),
        ("of-operator", {}),
    ):
        jobs.add(job_id, {"sunloom_job": "llm_train", "recipe": "r", **metadata})
        jobs.logs[job_id] = f"written to {settings.paths.state}/x of {job_id}\n"
    jobs.add("of-other-kind", {"sunloom_job": "features_fit", "tenant": "evil"})

    def seen(tenant: str) -> list[str]:
        return [job["job_id"] for job in send(tenant, "GET", "/llm/training").json()["jobs"]]

    assert seen("evil") == ["of-evil"]
    assert seen("acme") == ["of-acme"]
    assert seen("default") == ["of-operator"]
    assert seen("admin") == ["of-operator", "of-evil", "of-acme"]
    routes = [("GET", ""), ("GET", "/logs"), ("GET", "/events")]
    routes += [("POST", "/stop"), ("POST", "/resume")]
    for method, rest in routes:
        for job_id in ("of-acme", "of-operator", "of-other-kind", "never-was"):
            refused = send("evil", method, f"/llm/training/{job_id}{rest}")
            assert refused.status_code == 404, (job_id, rest)
            error = refused.json()["error"]
            assert error["message"] == f"There is no job {job_id!r}."
            assert error["hint"].endswith("Known: of-evil"), error["hint"]
    assert jobs.jobs["of-acme"]["status"] == "RUNNING"
    log = send("acme", "GET", "/llm/training/of-acme/logs").text
    assert log == "written to …/x of of-acme\n"
    assert send("acme", "GET", "/llm/training/of-acme").json()["status"] == "running"
    assert send("acme", "POST", "/llm/training/of-acme/stop").json()["status"] == "stopped"
    result = {"run_id": "r", "status": "succeeded", "artifacts": {"uri": "/srv/store/m/1"}}
    jobs.logs["of-acme"] += json.dumps(result)
    ended = send("acme", "GET", "/llm/training/of-acme").json()
    assert (ended["status"], ended["artifacts"]) == ("stopped", {"uri": "…/1"})
    assert send("admin", "POST", "/llm/training/of-evil/stop").json()["status"] == "stopped"


def follow(send: Send, job_id: str, *, after: int | None = None, tenant: str = "acme") -> list[Any]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    answer = send(tenant, "GET", f"/llm/training/{job_id}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return list(parse_events(iter(answer.text.split("\n"))))


def test_progress_is_streamed_to_its_end_and_resumed(
    send: Send, jobs: SmallJobServer, tmp_path: Path
) -> None:
    jobs.add("of-acme", {"sunloom_job": "llm_train", "recipe": "r", "tenant": "acme"}, "PENDING")
    folder = tmp_path / "llm-1"
    folder.mkdir()

    def work() -> None:
        time.sleep(0.5)
        jobs.jobs["of-acme"]["status"] = "RUNNING"
        jobs.logs["of-acme"] = f"run llm-1 writes to {folder}\n"
        with (folder / "progress.jsonl").open("a", buffering=1) as file:
            for step in (1, 2, 3):
                time.sleep(0.2)
                file.write(StepProgress(step=step, steps=3, loss=1 / step).to_json() + "\n")
        result = {"run_id": "llm-1", "status": "succeeded", "artifacts": {"uri": "/srv/m/1"}}
        jobs.logs["of-acme"] += json.dumps(result)
        jobs.jobs["of-acme"]["status"] = "SUCCEEDED"

    worker = Thread(target=work)
    worker.start()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda after: follow(send, "of-acme", after=after), (None, 2))
    worker.join()
    assert (first[0].event, first[-1].event) == ("status", "end")
    steps = [event for event in first if event.event == "step"]
    assert [(event.id, event.data["loss"]) for event in steps] == [
        ("1", 1.0), ("2", 0.5), ("3", 1 / 3),
    ]  # fmt: skip
    statuses = [event.data["status"] for event in first if event.event == "status"]
    # A busy machine looks late.
    assert statuses[-1] == "succeeded"
    assert statuses == [s for s in ("pending", "running", "succeeded") if s in statuses]
    assert first[-1].data["artifacts"] == {"uri": "…/1"}
    assert [event.id for event in second if event.event == "step"] == ["3"]
    # Once it has ended, whoever comes back gets what is missing and the end.
    assert [event.event for event in follow(send, "of-acme", after=3)] == ["status", "end"]


def test_a_key_has_a_bounded_number_of_streams_and_a_revoked_one_none(
    send: Send, jobs: SmallJobServer, settings: Settings
) -> None:
    jobs.add("of-acme", {"sunloom_job": "llm_train", "recipe": "r", "tenant": "acme"})
    secret, key = create_key(settings, ["train"], "acme")
    headers = {"Authorization": f"Bearer {secret}"}

    def stream() -> httpx.Response:
        return send("acme", "GET", "/llm/training/of-acme/events", headers=headers)

    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(stream) for _ in range(2)]
        time.sleep(1)
        refused = stream()
        assert refused.status_code == 429
        assert "2 streams of events" in refused.json()["error"]["message"]
        revoked = time.monotonic()
        revoke_key(settings, key.id)
        texts = [one.result().text for one in opened]
    assert time.monotonic() - revoked < patience(5)
    assert all("event: error" in text and "revoked" in text for text in texts)
    assert all(text.startswith("event: status") for text in texts)


def test_a_stopped_training_is_resumed_as_it_was_asked_for(
    send: Send, jobs: SmallJobServer, settings: Settings
) -> None:
    assert train(send, {**OWN, "lora": {"r": 8}, "output.reuse": False}).status_code == 202
    resume = ("POST", "/llm/training/raysubmit_0/resume")
    running = send("acme", *resume)
    assert (running.status_code, running.json()["error"]["code"]) == (409, "conflict")
    assert send("acme", "POST", "/llm/training/raysubmit_0/stop").status_code == 200
    headers = {"Idempotency-Key": "again"}
    for _ in range(2):
        resumed = send("acme", *resume, headers=headers)
        assert (resumed.status_code, resumed.json()["job_id"]) == (202, "raysubmit_1")
    first, second = (shlex.split(job["entrypoint"]) for job in jobs.submitted)
    assert set(first) - set(second) == {"output.reuse=false"}
    # The run of the same recipe and data is gone on from.
    assert set(second) - set(first) == {"output.reuse=true"}
    assert [job["metadata"]["tenant"] for job in jobs.submitted] == ["acme", "acme"]
    other = {"Authorization": f"Bearer {create_key(settings, ['admin'], 'ops')[0]}"}
    assert send("ops", *resume, headers=other).status_code == 403
    jobs.add("by-hand", {"sunloom_job": "llm_train", "tenant": "acme"}, "FAILED")
    assert send("acme", "POST", "/llm/training/by-hand/resume").status_code == 409


def test_an_idempotency_key_is_its_tenants(send: Send, jobs: SmallJobServer) -> None:
    def ids(tenant: str) -> list[str]:
        body = {"recipe": "retail_agent", "overrides": {"output.name": f"{tenant}-once"}}
        headers = {"Idempotency-Key": "the-same"}
        answers = [send(tenant, "POST", "/llm/train", json=body, headers=headers) for _ in "12"]
        return [answer.json()["job_id"] for answer in answers]

    assert (ids("acme"), ids("evil")) == (["raysubmit_0"] * 2, ["raysubmit_1"] * 2)
    assert [job["metadata"]["tenant"] for job in jobs.submitted] == ["acme", "evil"]


def test_models_and_their_aliases_are_their_tenants(send: Send, settings: Settings) -> None:
    names = {
        tenant: {m["name"] for m in send(tenant, "GET", "/models").json()["models"]}
        for tenant in ("acme", "evil", "admin")
    }
    shared = {"small-base", "retail-agent"}
    assert names["acme"] == {*shared, "acme-model"}
    assert names["evil"] == {*shared, "evil-model"}
    assert names["admin"] >= {*shared, "acme-model", "evil-model"}
    performance = send("evil", "GET", "/monitoring/performance").json()["models"]
    assert {model["model"] for model in performance} == {f"{name}@1" for name in names["evil"]}
    for path in ("/models/acme-model", "/models/acme-model@1"):
        hidden = send("evil", "GET", path)
        assert hidden.status_code == 404
        assert "acme-model" not in hidden.json()["error"]["hint"]

    def move(tenant: str, name: str, alias: str = "production", version: int = 1) -> int:
        body = {"version": version}
        return send(tenant, "POST", f"/models/{name}/aliases/{alias}", json=body).status_code

    assert move("evil", "acme-model") == 404
    assert move("evil", "retail-agent") == 403
    assert open_registry(settings).aliases("retail-agent") == {}
    assert [move("acme", "acme-model"), move("default", "retail-agent")] == [200, 200]
    assert move("admin", "acme-model", "staging") == 200
    assert open_registry(settings).aliases("acme-model") == {"production": 1, "staging": 1}
    assert move("acme", "acme-model", "7") == 400
    assert move("acme", "acme-model", version=10**8) == 404
    assert send("acme", "GET", "/models/acme-model@" + "9" * 23).status_code == 404


def test_the_client_uses_the_address_that_it_is_given(
    send: Send, jobs: SmallJobServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert job_client(settings).get_address() == jobs.url
