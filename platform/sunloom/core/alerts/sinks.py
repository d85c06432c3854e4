"""Built-in alert sinks: the log, a webhook, and a webhook in Slack's form."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sunloom.config import Settings
from sunloom.config.alert_sinks import WebhookConfig
from sunloom.core.alerts.alert import SEVERITIES, Alert, AlertSink
from sunloom.core.database import utc_now
from sunloom.core.plugins import load_plugin
from sunloom.errors import ConfigError, SunloomError

SIGNATURE = "X-Sunloom-Signature"
_FIRST_PAUSE_S = 0.2
_COLOURS = {"info": "#4a7fd6", "warning": "#d9a02b", "critical": "#c2392f", "resolved": "#1f8a5b"}


class DeliveryError(SunloomError):
    """An alert that its receiver refused or did not answer."""

    code = "alert_delivery"


class LogSink:
    """Writes alerts to the log."""

    def send(self, alert: Alert) -> None:
        """Log one alert at its severity."""
        log = logging.getLogger("sunloom.alerts")
        if alert.status == "resolved":
            log.info("%s resolved: %s", alert.name, alert.message)
            return
        level = {"info": logging.INFO, "critical": logging.ERROR}.get(alert.severity)
        log.log(level or logging.WARNING, "%s [%s] %s", alert.name, alert.severity, alert.message)


class WebhookSink:
    """Posts alerts as JSON.

    Args:
        config: Address, attempts, timeout.
        format_body: JSON body of an alert.
    """

    def __init__(self, config: WebhookConfig, format_body: Callable[[Alert], str]) -> None:
        self._config = config
        self._format_body = format_body

    def send(self, alert: Alert) -> None:
        """Post one alert and wait for a 2xx.

        Raises:
            DeliveryError: The receiver refused it or did not answer; names the host, never the
                address, which may hold a token.
        """
        least = SEVERITIES.index(self._config.min_severity)
        if SEVERITIES.index(alert.severity) < least:
            return
        body = self._format_body(alert).encode()
        pause = _FIRST_PAUSE_S
        for attempt in range(1, self._config.attempts + 1):
            problem, is_final = self._post(body)
            if not problem:
                return
            if is_final or attempt == self._config.attempts:
                host = urlsplit(self._config.url.get_secret_value()).hostname
                raise DeliveryError(f"{host} did not take the alert: {problem}.")
            time.sleep(pause)
            pause *= 2

    def _post(self, body: bytes) -> tuple[str, bool]:
        """The problem, empty on success, and whether another attempt is pointless."""
        request = Request(
            self._config.url.get_secret_value(), data=body, headers=self._headers(body)
        )
        opener = build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=self._config.timeout_s):
                return "", True
        except HTTPError as error:
            error.close()
            # 408 and 429 invite another attempt; other refusals and redirects would come again.
            return f"HTTP {error.code}", 300 <= error.code < 500 and error.code not in (408, 429)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            # Only the type: the text may contain the address with its token.
            return type(reason).__name__, False

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "sunloom"}
        headers |= {name: value.get_secret_value() for name, value in self._config.headers.items()}
        if self._config.secret is not None:
            key = self._config.secret.get_secret_value().encode()
            headers[SIGNATURE] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        return headers


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would carry headers with secrets to another host."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def plain_body(alert: Alert) -> str:
    """JSON body of a plain webhook."""
    return json.dumps(alert.to_dict() | {"sent_at": utc_now().isoformat()})


def slack_body(alert: Alert) -> str:
    """JSON body that Slack's incoming webhooks take."""
    word = "resolved" if alert.status == "resolved" else alert.severity
    figures = {**alert.labels}
    if alert.value is not None:
        bound = "" if alert.threshold is None else f" (bound {alert.threshold:.4g})"
        figures["value"] = f"{alert.value:.4g}{bound}"
    fields = [{"title": name, "value": str(v), "short": True} for name, v in figures.items()]
    attachment = {"color": _COLOURS[word], "fields": fields, "ts": int(utc_now().timestamp())}
    text = f"[{word}] {alert.name}: {alert.message}"
    # Slack reads these three as markup and asks for exactly these replacements.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": text, "attachments": [attachment]})


def build_sink(settings: Settings, name: str) -> AlertSink:
    """The sink of that name, built in or from an entry point.

    Raises:
        ConfigError: The settings lack the section that the sink needs.
        NotFoundError: There is no such sink.
    """
    if name == "log":
        return LogSink()
    if name in ("webhook", "slack"):
        config: WebhookConfig | None = getattr(settings.telemetry, name)
        if config is None:
            raise ConfigError(
                f"telemetry.alert_sinks names {name!r}, and there is no telemetry.{name}.",
                f"Set telemetry.{name}.url, such as ${{ALERT_URL}}.",
                f"telemetry.{name}",
            )
        return WebhookSink(config, slack_body if name == "slack" else plain_body)
    return cast(AlertSink, load_plugin("sunloom.alert_sinks", name, AlertSink))
