from __future__ import annotations

import json
import time

import pytest

from sunloom import errors
from sunloom.core.host_paths import hide_paths, hide_paths_in
from sunloom.serving.auth.scopes import find_rule
from sunloom.serving.error_body import (
    STATUS,
    problem_of,
    status_of,
    translate,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.AuthenticationError("x"), 401),
        (errors.ConfigError("x"), 400),
        (errors.DataQualityError("x"), 422),
        (errors.NotFoundError("x"), 404),
        (errors.JobError("x"), 503),
        (errors.ArtifactError("x"), 500),
        (ValueError("x"), 500),
    ],
)
def test_the_nearest_class_decides(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_every_listed_status_is_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())


def test_unexpected_errors_do_not_reveal_their_text() -> None:
    problem = problem_of(RuntimeError("password=1"))
    assert problem.status == 500
    assert "password" not in str(problem.to_json("r"))


def test_html_of_a_proxy_is_not_repeated_for_server_errors() -> None:
    assert translate(500, b"<html>stack</html>").message == "The request failed."


def vllm_error(*entries: str, param: str = "body.x") -> bytes:
    """As vLLM 0.29 writes pydantic's errors."""
    lines = "".join(f"\n  {entry}" for entry in entries)
    message = f"{len(entries)} validation errors:{lines}"
    return json.dumps({"error": {"message": message, "param": param, "code": 400}}).encode()


def entry(place: str, text: str) -> str:
    return f"{{'type': 'x_type', 'loc': ({place}), 'msg': {text}, 'input': 'loc': (), 'msg': 'a'}}"


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (
            vllm_error(entry("'body', 'messages'", "'Field required'")),
            "messages is required.",
            "messages",
        ),
        (
            vllm_error(
                entry("'body', 'stop', 'str'", "'Input should be a valid string'"),
                entry("'body', 'stop', 'list[str]'", "'Input should be a valid list'"),
            ),
            "stop should be a valid string or a valid list.",
            "stop",
        ),
        (
            vllm_error(
                entry(
                    "'body', 'function-wrap[__log_extra_fields__()]', 'messages', 0,"
                    " 'ChatCompletionUserMessageParam', 'content', 'generator[union[...,...]]'",
                    "'Input should be iterable'",
                ),
                entry("'body', 'messages', 0, 'Message', 'role'", "\"Input should be 'tool'\""),
            ),
            "messages.0.content should be iterable.",
            "messages.0.content",
        ),
        (
            vllm_error(entry("'body',", '"Value error, n must be 1, isn\'t"'), param="n"),
            "n: n must be 1, isn't",
            "n",
        ),
        (
            b'{"error": {"message": "Too long.", "param": "None", "code": 400}}',
            "Too long.",
            None,
        ),
    ],
)
def test_an_error_of_vllm_is_one_sentence_that_names_the_field(
    body: bytes, message: str, param: str | None
) -> None:
    problem = translate(400, body)
    assert (problem.message, problem.param) == (message, param)
    assert problem.code == "invalid_request"


def test_many_errors_of_vllm_are_translated_at_once() -> None:
    # Close to the largest error that is collected.
    body = vllm_error(
        *["{'type': 'x', 'loc': (" + "'a', " * 50_000 + "'msg': '" + "\\" * 50_000] * 3
    )
    began = time.perf_counter()
    assert translate(400, body).param == "body.x"
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/tmp/a/state/x.db is damaged", "…/x.db is damaged"),
        ("'/usr/lib/x y' and (/etc/passwd)", "'…/x y' and (…/passwd)"),
        ("file:///tmp/a/b: no", "…/b: no"),
        ("There is no route /v1/models/x.", "There is no route /v1/models/x."),
        ("conf/llm/a.yaml", "conf/llm/a.yaml"),
        ("https://example.org/tmp/a", "https://example.org/tmp/a"),
        ("s3://bucket/tmp/a", "s3://bucket/tmp/a"),
        ("2026/usr/1", "2026/usr/1"),
    ],
)
def test_paths_of_the_machine_stay_on_it(text: str, shown: str) -> None:
    assert hide_paths(text) == shown
    body = problem_of(errors.ArtifactError(text, text)).to_json("r")
    assert (json.loads(body)["error"]["message"], json.loads(body)["error"]["hint"]) == (shown,) * 2
    assert hide_paths_in({"a": [text, 1, None, (text,)]}) == {"a": [shown, 1, None, [shown]]}


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/chat/completions", "llm"),
        ("POST", "/llm/generate", "llm"),
        ("POST", "/llm/train", "train"),
        ("GET", "/llm/training/x/logs", "train"),
        ("GET", "/models/a", "models"),
        ("POST", "/models/a/aliases/b", "train"),
        ("POST", "/predict/repurchase", "models"),
        ("POST", "/keys", "admin"),
        ("POST", "/features/batch", "features"),
        ("POST", "/features/ingest", "ingest"),
        ("GET", "/agents/a/status", "agents"),
        ("GET", "/metrics", None),
        ("GET", "/elsewhere", None),
    ],
)
def test_rules(method: str, path: str, scope: str | None) -> None:
    assert find_rule(method, path).scope == scope
