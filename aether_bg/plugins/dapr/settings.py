"""The settings: what can be set, what the environment of a Dapr app sets, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_address
from math import isfinite
from typing import Any

import attrs
from attrs import field

from aether_bg.errors import InvalidOption, SchedulerMisconfigured, shown


def loopback(host: str) -> bool:
    """Whether only this machine (on Kubernetes: only this pod) reaches a server that listens on `host`."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(name: str, value: object, rule: str, example: str) -> InvalidOption:
    return InvalidOption(shown(value), rule, f"For example: {example}.", name=f"{name} of DaprScheduler")


def _seconds(least: float, most: float) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        number = isinstance(value, int) or (isinstance(value, float) and isfinite(value))
        if not number or isinstance(value, bool) or not least <= value <= most:
            rule = f"must be a number of seconds from {least:g} to {most:g}"
            raise _wrong(attribute.name, value, rule, f"{attribute.default:g}")

    return check


def _seconds_or_none(settings: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        _seconds(0.1, 86400)(settings, attribute, value)


def _flag(_: object, attribute: attrs.Attribute[bool], value: bool) -> None:
    if not isinstance(value, bool):
        raise _wrong(attribute.name, value, "must be True or False", "True")


def _port(_: object, attribute: attrs.Attribute[int | None], value: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 1 <= value <= 65535):
        raise _wrong(attribute.name, value, "must be a TCP port, 1 to 65535", "6000")


def _text(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise _wrong(attribute.name, value, "must be text without spaces", '"127.0.0.1"')


def _secret(_: object, attribute: attrs.Attribute[str | None], value: str | None) -> None:
    if value is not None and not (isinstance(value, str) and value and value.isascii() and value.isprintable()):
        rule = "must be printable ASCII text, or None"
        raise InvalidOption(f"DaprScheduler({attribute.name}=…)", rule)  # a token is never shown


def _port_from(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535):
        raise InvalidOption(shown(text), "must be a TCP port, 1 to 65535", name=f"the environment variable {variable}")
    return int(text)


def _endpoint() -> str:
    given = os.environ.get("DAPR_GRPC_ENDPOINT", "").strip()
    return given or f"127.0.0.1:{_port_from('DAPR_GRPC_PORT') or 50001}"


def _source(settings: DaprSettings) -> str:
    if settings.endpoint == os.environ.get("DAPR_GRPC_ENDPOINT", "").strip():
        return "DAPR_GRPC_ENDPOINT"
    if settings.endpoint != _endpoint():
        return "DaprScheduler(endpoint=…)"
    return "DAPR_GRPC_PORT"


def _app_port() -> int | None:
    return _port_from("APP_PORT")


def _app_token() -> str | None:
    return os.environ.get("APP_API_TOKEN") or None  # Dapr treats an empty token as no token, too


def _api_token() -> str | None:
    return os.environ.get("DAPR_API_TOKEN") or None


@attrs.frozen(kw_only=True)
class DaprSettings:
    """Settings of `DaprScheduler`, checked. Missing ones come from the environment that Dapr gives its app."""

    endpoint: str = field(factory=_endpoint, validator=_text)
    """The sidecar's gRPC API: DAPR_GRPC_ENDPOINT, else 127.0.0.1 and DAPR_GRPC_PORT."""
    serve: bool = field(default=True, validator=_flag)
    """True: listen for triggers on gRPC (`--app-protocol grpc`). False: mount `asgi` (`--app-protocol http`)."""
    host: str = field(default="127.0.0.1", validator=_text)
    """The address to listen on. Beyond loopback only if the sidecar lives in a container of its own."""
    app_port: int | None = field(factory=_app_port, validator=_port)
    """The port to listen on: APP_PORT, else the port that the sidecar says is its app's."""
    app_token: str | None = field(factory=_app_token, repr=False, validator=_secret)
    """APP_API_TOKEN: each trigger must carry it."""
    api_token: str | None = field(factory=_api_token, repr=False, validator=_secret)
    """DAPR_API_TOKEN: sent with each call to the sidecar."""
    insecure: bool = field(default=False, validator=_flag)
    """True: listen beyond loopback without a token. Anyone can send triggers then; log and health say so."""
    required: bool = field(default=False, validator=_flag)
    """True: no sidecar at the start is an error. False: start without it, and recover when it comes."""
    wait: float = field(default=5.0, validator=_seconds(0, 300))
    """Seconds that the start waits for the sidecar."""
    deadline: float = field(default=5.0, validator=_seconds(0.1, 60))
    """Seconds that a call to the sidecar may take."""
    redeliver: float = field(default=1.0, validator=_seconds(1, 60))
    """Seconds after which Dapr delivers a trigger again that could not be taken."""
    reconcile: float = field(default=60.0, validator=_seconds(0.1, 86400))
    """Seconds between two comparisons of what Dapr holds with the store."""
    fallback: float | None = field(default=30.0, validator=_seconds_or_none)
    """Seconds without Dapr, or without its triggers, after which the process claims due jobs itself. None: never."""
    source: str = field(init=False, default=attrs.Factory(_source, takes_self=True))
    """Where `endpoint` was taken from, for messages."""

    def __attrs_post_init__(self) -> None:
        if self.serve and not loopback(self.host) and self.app_token is None and not self.insecure:
            raise SchedulerMisconfigured(
                f"DaprScheduler(host={shown(self.host)})",
                "must have a token, because others than this machine can send it triggers",
                "Set APP_API_TOKEN for the sidecar and the app, listen on 127.0.0.1, or pass insecure=True.",
            )
