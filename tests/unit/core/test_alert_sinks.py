"""Alerts over real HTTP: signed, retried, never lost, and no secret in sight."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from webhook_receiver import Receiver

from sunloom.config import Settings
from sunloom.config.alerts import WebhookConfig
from sunloom.core.alerts import Alert, deliver_alerts, emit_alert, list_alerts, resolve_alert

DRIFT = Alert("feature_drift", "warning", "amount <drifted>", {"feature": "amount"}, 0.3, 0.1)


def sending(settings: Settings, receiver: Receiver, sink: str = "webhook", **more: Any) -> Settings:
    hook = WebhookConfig.model_validate({"url": receiver.url} | more)
    telemetry = settings.telemetry.model_copy(update={"alert_sinks": (sink,), sink: hook})
    return settings.model_copy(update={"telemetry": telemetry})


def test_raised_once_counted_up_and_resolved(settings: Settings, receiver: Receiver) -> None:
    settings = sending(settings, receiver)
    assert emit_alert(settings, DRIFT)
    assert not emit_alert(settings, DRIFT)
    assert resolve_alert(settings, DRIFT)
    first, second = receiver.alerts
    assert (first["status"], second["status"]) == ("open", "resolved")
    assert first["name"] == "feature_drift"
    assert first["labels"] == {"feature": "amount"}
    assert (first["value"], first["threshold"], first["key"]) == (0.3, 0.1, DRIFT.key)
    assert "sent_at" in first


def test_a_worse_alert_is_sent_again(settings: Settings, receiver: Receiver) -> None:
    settings = sending(settings, receiver)
    emit_alert(settings, DRIFT)
    worse = Alert("feature_drift", "critical", "far", {"feature": "amount"}, 3.0, 0.1)
    assert not emit_alert(settings, worse)
    emit_alert(settings, DRIFT)
    assert [one["severity"] for one in receiver.alerts] == ["warning", "critical"]
    (held,) = list_alerts(settings)
    assert (held.severity, held.count) == ("critical", 3)


def test_bodies_are_signed_and_headers_sent(settings: Settings, receiver: Receiver) -> None:
    settings = sending(settings, receiver, secret="s3cret", headers={"Authorization": "Bearer b"})
    emit_alert(settings, DRIFT)
    expected = hmac.new(b"s3cret", receiver.bodies[0], hashlib.sha256).hexdigest()
    assert receiver.headers[0]["X-Sunloom-Signature"] == f"sha256={expected}"
    assert receiver.headers[0]["Authorization"] == "Bearer b"


def test_slacks_form(settings: Settings, receiver: Receiver) -> None:
    emit_alert(sending(settings, receiver, "slack"), DRIFT)
    (body,) = receiver.alerts
    assert body["text"] == "[warning] feature_drift: amount &lt;drifted&gt;"
    fields = {one["title"]: one["value"] for one in body["attachments"][0]["fields"]}
    assert fields == {"feature": "amount", "value": "0.3 (bound 0.1)"}


def test_min_severity(settings: Settings, receiver: Receiver) -> None:
    settings = sending(settings, receiver, min_severity="critical")
    emit_alert(settings, DRIFT)
    emit_alert(settings, Alert("x", "critical", "y"))
    assert [one["name"] for one in receiver.alerts] == ["x"]


def test_a_busy_receiver_gets_another_attempt(settings: Settings, receiver: Receiver) -> None:
    receiver.statuses = [503, 429]
    emit_alert(sending(settings, receiver), DRIFT)
    assert len(receiver.bodies) == 3
    assert deliver_alerts(sending(settings, receiver)) == 0


@pytest.mark.parametrize("status", [400, 302])
def test_what_fails_waits_and_no_secret_is_logged(
    settings: Settings, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("sunloom").propagate = True
    receiver.statuses = [status]
    settings = sending(settings, receiver, headers={"Authorization": "Bearer b"}, attempts=1)
    assert emit_alert(settings, DRIFT)
    assert len(receiver.bodies) == 1
    assert f"127.0.0.1 did not take the alert: HTTP {status}" in caplog.text
    assert "t0ken" not in caplog.text
    assert deliver_alerts(settings) == 1
    assert len(receiver.bodies) == 2
    assert "t0ken" not in settings.model_dump_json()
    assert "Bearer" not in settings.model_dump_json()
    assert "t0ken" not in repr(settings)


def test_nobody_there(
    settings: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("sunloom").propagate = True
    gone = sending(settings, receiver, attempts=1).telemetry.webhook
    assert gone is not None
    nobody = gone.model_copy(
        update={"url": SecretStr("http://127.0.0.1:9/t0ken"), "timeout_s": 0.5}
    )
    telemetry = settings.telemetry.model_copy(
        update={"alert_sinks": ("webhook",), "webhook": nobody}
    )
    assert emit_alert(settings.model_copy(update={"telemetry": telemetry}), DRIFT)
    assert "ConnectionRefusedError" in caplog.text
    assert "t0ken" not in caplog.text
    assert [one.status for one in list_alerts(settings)] == ["open"]


def test_one_sink_that_fails_silences_no_other(settings: Settings, receiver: Receiver) -> None:
    settings = sending(settings, receiver)
    telemetry = settings.telemetry.model_copy(update={"alert_sinks": ("slack", "nope", "webhook")})
    assert emit_alert(settings.model_copy(update={"telemetry": telemetry}), DRIFT)
    assert len(receiver.bodies) == 1


def test_only_http_urls() -> None:
    for url in ("file:///etc/passwd", "ftp://x/y", "hook"):
        with pytest.raises(ValidationError, match="begins with http"):
            WebhookConfig.model_validate({"url": url})
