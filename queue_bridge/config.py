"""Every setting of the bridge: from a TOML file and the environment, checked once, at the start.

``SONIC_QUEUE_CONFIG`` names the file; a setting ``lease_s`` in it is overridden by ``SONIC_QUEUE_LEASE_S``. Without a
``url`` from either, there is no bridge. docs/configuration.md lists the same settings; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from .alerts import AlertLimits
from .errors import BadJob, ConfigError
from .fetch_limits import MEBIBYTE, Limits
from .mail import ADDRESS, what_is_wrong_with_server
from .retry import RetryPolicy
from .storage_places import StoragePlace, check_places, is_object, object_address, places_of_buckets, places_of_tables
from .tiers import TIERS
from .web_address import PUBLIC_PORTS, Reach, network_of, safe_address
from .webhook import SECRETS_MAX, is_secret, what_is_wrong_with

ENVIRONMENT = "SONIC_QUEUE_"
CONFIG_FILE = "SONIC_QUEUE_CONFIG"
QUALITIES = ("sonic", "all", "off")
HOST = re.compile(r"(?=.*[^0-9./:])[^\s/:@?#]{1,253}")
ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")
COLLECTOR = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _setting(default: Any, meaning: str, *, low: float = -math.inf, high: float = math.inf) -> Any:
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """One bridge's settings; the names are those of the file. Durations end in their unit."""

    url: str = field(
        default="",
        repr=False,  # it may hold a password
        metadata={"meaning": "the queue's Redis server: redis://, rediss:// or unix:///path; turns the bridge on"},
    )
    queue: str = _setting("sonic", "name of the queue; several on one server are kept apart by it")
    instance: str = _setting("", "name of this ComfyUI in the queue; empty for host-port")
    roots: tuple[Path, ...] = _setting((), "folders that jobs may read from and write to, besides ComfyUI's own")
    templates: tuple[Path, ...] = _setting((), "folders with further job templates, besides workflows/api")
    raw_nodes: tuple[str, ...] = _setting(
        (), "node classes of which a client's own prompt may consist; none: no such prompts"
    )
    tiers: tuple[int, ...] = _setting((), "resolution tiers to serve (512, 768, 1024); empty: by the card's memory")
    lease_s: float = _setting(30.0, "an instance that is silent for so long has lost its job", low=1, high=3600)
    heartbeat_s: float = _setting(5.0, "how often a lease is renewed; at most a third of it", low=0.1, high=600)
    retries: int = _setting(3, "further attempts after a failure that may pass", low=0, high=100)
    backoff_s: float = _setting(60.0, "wait before the first of them, doubled each time", low=0, high=86400)
    jitter: float = _setting(0.2, "a wait is longer by up to this part, at random", low=0, high=1)
    crashes: int = _setting(3, "a job whose instance died so often under it has failed", low=1, high=100)
    priority_share: int = _setting(10, "one of so many turns is a normal job's though priority waits", low=2, high=1000)
    prefetch: int = _setting(1, "1: the next job's files are copied and checked while one runs; 0: not", low=0, high=1)
    local_share: int = _setting(
        1, "prompts from the browser of a ComfyUI that may run between two jobs", low=1, high=1000
    )
    retention_days: float = _setting(7.0, "an ended job is remembered for so long", low=0.001, high=3650)
    results_days: float = _setting(0.0, "a video is removed from its place after so long; 0: never", low=0, high=3650)
    grace_s: float = _setting(30.0, "after SIGTERM the job at hand may go on for so long", low=0, high=86400)
    drain_grace_s: float = _setting(600.0, "the same after `sonic-queue drain`", low=0, high=604800)
    events_kept: int = _setting(100_000, "about how many events the queue keeps for those who follow it", low=1000)
    progress_s: float = _setting(0.5, "progress is reported at most this often", low=0.1, high=60)

    time_limit_s: float = _setting(0.0, "a prompt may take so long; 0: by its video", low=0, high=604800)
    time_limit_scale: float = _setting(1.0, "the limit by its video, times this", low=0.01, high=1000)
    silence_s: float = _setting(1200.0, "a prompt without progress for so long hangs; 0: never", low=0, high=604800)
    interrupt_s: float = _setting(30.0, "an interrupted prompt has so long to end", low=1, high=3600)
    exit_when_unhealthy: bool = _setting(True, "a server that can run nothing any more ends itself")
    quality: str = _setting("sonic", "whose finished videos are measured: sonic, all (draft's, too) or off")
    quality_gate: bool = _setting(True, "a measured video that falls short is made once more, with another seed")
    private_hosts: tuple[str, ...] = _setting(
        (), "hosts and networks around us that web addresses of jobs may reach all the same"
    )
    public_ports: tuple[int, ...] = _setting(PUBLIC_PORTS, "ports that web addresses of jobs may have elsewhere")
    results: str = _setting("", "folder, or bucket with prefix, that a job's output may be relative to")
    buckets: tuple[str, ...] = _setting(
        (), "buckets that jobs may use, by the variables of the provider: s3://, gs://, az://"
    )
    storage: tuple[StoragePlace, ...] = _setting((), "object stores with keys of their own: tables [storage.NAME]")
    input_mib: float = _setting(512.0, "an input that is fetched may be so large", low=0.001, high=1048576)
    input_s: float = _setting(600.0, "and may take so long", low=1, high=86400)
    input_idle_s: float = _setting(30.0, "and may be silent for so long", low=0.1, high=3600)
    durable: bool = _setting(False, "a queue's server that is started here waits for the disk before it answers")

    notify: bool = _setting(
        True, "this ComfyUI server or gateway delivers webhooks and mails, as far as it has what they need"
    )
    webhooks: tuple[str, ...] = _setting((), "addresses that are told of every job's end; docs/webhooks.md")
    webhook_secrets: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata={"meaning": "whsec_..., with which webhooks are signed; two while one replaces the other"},
    )
    webhook_schedule_s: tuple[float, ...] = _setting(
        (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
        "waits before the further tries of a webhook",
    )
    webhook_timeout_s: float = _setting(15.0, "a webhook's receiver has so long to answer", low=0.1, high=120)
    smtp_url: str = field(
        default="",
        repr=False,  # it may hold a password
        metadata={"meaning": "the server for mails: smtp://, smtps:// or smtp+starttls://user:password@host:port"},
    )
    mail_from: str = _setting("", "who mails to the operator are from; docs/webhooks.md says of what")
    mail_to: tuple[str, ...] = _setting((), "who gets them")
    mail_every_min: float = _setting(15.0, "at most one mail of a kind in so many minutes", low=0.01, high=10080)
    alert_backlog: int = _setting(100, "more waiting jobs than this are an alert; 0: never", low=0)
    alert_oldest_s: float = _setting(3600.0, "a job that waits for longer is one; 0: never", low=0)
    alert_failure_rate: float = _setting(0.2, "and a larger share of jobs that fail; 0: never", low=0, high=1)
    alert_window_min: float = _setting(30.0, "the share is that of so many minutes", low=1, high=10080)
    tracing_endpoint: str = _setting(
        "", "the OpenTelemetry collector, http://host:4318; else what OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
    fleet_up_jobs: int = _setting(4, "more jobs waiting for each server of a fleet add one", low=1, high=100_000)
    fleet_up_age_s: float = _setting(60.0, "so does a job that has waited for so long", low=0, high=604800)
    fleet_down_idle_s: float = _setting(300.0, "a server that had no job for so long is ended", low=0, high=604800)
    fleet_cooldown_s: float = _setting(60.0, "rest after a server was added or ended", low=0, high=86400)
    fleet_backoff_s: float = _setting(1.0, "wait before a server that failed starts again, doubled each time", low=0.01)
    fleet_backoff_max_s: float = _setting(300.0, "the longest such wait", low=0.01, high=86400)
    fleet_fault_s: float = _setting(60.0, "the first such wait after exit status 71", low=0, high=86400)
    fleet_stable_s: float = _setting(300.0, "a server that served for so long has not failed before", low=0, high=86400)
    fleet_lost_s: float = _setting(60.0, "one that lives out of the queue for so long is started again", low=1)
    fleet_start_s: float = _setting(300.0, "a start may take so long, until it is in the queue", low=1, high=86400)
    fleet_log_mib: float = _setting(50.0, "a server's log is cut at so many MiB", low=0.001, high=1048576)
    fleet_logs: int = _setting(5, "so many older ones are kept", low=1, high=1000)
    gateway_folder: str = _setting(
        "", "where `sonic-queue gateway` and the tab in ComfyUI keep uploads and results; a folder in the roots"
    )
    gateway_upload_mb: float = _setting(512.0, "an upload to the gateway may have so many MB", low=0.001, high=1e6)
    gateway_read_s: float = _setting(30.0, "a request's head, and each pause in its body, may take so long", low=0.1)
    gateway_origins: tuple[str, ...] = _setting((), "web pages of these origins may use the gateway; none by default")

    @property
    def prefix(self) -> str:
        """What every key begins with: the queue's name as the hash tag of a cluster."""
        return f"{{{self.queue}}}"

    @property
    def places(self) -> tuple[StoragePlace, ...]:
        """Every object store that jobs may use."""
        return (*self.storage, *places_of_buckets(self.buckets))

    @property
    def limits(self) -> Limits:
        """Of an input that is fetched."""
        return Limits(round(self.input_mib * MEBIBYTE), self.input_s, self.input_idle_s)

    @property
    def alert_limits(self) -> AlertLimits:
        window_s = self.alert_window_min * 60
        return AlertLimits(self.alert_backlog, self.alert_oldest_s, self.alert_failure_rate, window_s)

    @property
    def reach(self) -> Reach:
        return Reach(self.private_hosts, self.public_ports)

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(self.retries, self.backoff_s, self.jitter)


def load_settings(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """The settings out of file and environment; ``given`` overrides both.

    Raises ConfigError that names the setting, and where it stands, for a wrong or unknown one.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, tuple[Any, str]] = {}
    known = {one.name: one for one in dataclasses.fields(Settings)}
    for name, value in _file_values(environment.get(CONFIG_FILE, "")).items():
        if name not in known:
            raise ConfigError(name, f"is no setting; the settings are {', '.join(sorted(known))}.")
        found[name] = (value, name)
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT) or variable == CONFIG_FILE or not text:
            continue
        name = variable.removeprefix(ENVIRONMENT).lower()
        if name not in known:
            raise ConfigError(variable, f"is no setting; the settings are {', '.join(sorted(known))}.")
        found[name] = (text, variable)
    found |= {name: (value, name) for name, value in given.items() if value is not None}
    types = get_type_hints(Settings)
    settings = Settings(**{name: _typed(types[name], *value) for name, value in found.items()})
    _check(settings, {name: where for name, (_, where) in found.items()})
    return settings


def _file_values(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(CONFIG_FILE, f"'{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(CONFIG_FILE, f"'{path}' is no TOML file: {error}.") from error


def _typed(kind: Any, value: Any, where: str) -> Any:
    """The value as its setting's type; lists in the environment are separated as PATH is (folders) or by commas."""
    if kind == tuple[Path, ...]:
        parts = value.split(os.pathsep) if isinstance(value, str) else value
        return tuple(Path(_text(part, where)) for part in _list(parts, where) if part)
    if kind in (tuple[int, ...], tuple[float, ...]):
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(_number(get_args(kind)[0], part, where) for part in _list(parts, where))
    if kind == tuple[StoragePlace, ...]:
        return places_of_tables(value)
    if kind == tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(text for part in _list(parts, where) if (text := _text(part, where).strip()))
    if kind is str:
        return _text(value, where)
    if kind is bool:
        return _truth(value, where)
    return _number(kind, value, where)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(where, "is no list.")
    return list(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str | Path):
        raise ConfigError(where, "is no text.")
    return str(value)


def _truth(value: Any, where: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = value if isinstance(value, bool) else words.get(str(value).lower())
    if found is None:
        raise ConfigError(where, f"'{value}' is not true or false.")
    return found


def _number(kind: Any, value: Any, where: str) -> Any:
    wanted = "whole number" if kind is int else "number"
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        number = kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(where, f"'{value}' is no {wanted}.") from error
    if not math.isfinite(number):
        raise ConfigError(where, f"'{value}' is no {wanted}.")
    return number


def _check(settings: Settings, places: Mapping[str, str]) -> None:
    def wrong(name: str, message: str) -> ConfigError:
        return ConfigError(places.get(name, name), message)

    for one in dataclasses.fields(Settings):
        value = getattr(settings, one.name)
        low, high = one.metadata.get("low", -math.inf), one.metadata.get("high", math.inf)
        if isinstance(value, int | float) and not low <= value <= high:
            raise wrong(one.name, f"{value:g} is outside {low:g} to {high:g}.")
    for name, text in (("queue", settings.queue), ("instance", settings.instance or "unnamed")):
        if not NAME.fullmatch(text):
            raise wrong(name, f"'{text}' is no name: letters, digits, dots, dashes and underscores.")
    if settings.heartbeat_s > settings.lease_s / 3:
        raise wrong("heartbeat_s", f"{settings.heartbeat_s:g} is more than a third of lease_s ({settings.lease_s:g}).")
    if settings.quality not in QUALITIES:
        raise wrong("quality", f"'{settings.quality}' is not one of {', '.join(QUALITIES)}.")
    if settings.tracing_endpoint and not COLLECTOR.fullmatch(settings.tracing_endpoint):
        raise wrong("tracing_endpoint", "is no address such as http://collector:4318.")
    _check_lists(settings, wrong)
    _check_notices(settings, wrong)
    _check_results(settings, wrong)


def _check_results(settings: Settings, wrong: Callable[[str, str], ConfigError]) -> None:
    check_places(settings.places)
    if is_object(settings.results):
        try:
            below = object_address(f"{settings.results.rstrip('/')}/video.mp4", "results")
        except BadJob as error:
            raise wrong("results", str(error).removeprefix("results: ")) from None
        if not any(place.allows(below) for place in settings.places):
            raise wrong("results", f"'{below.kind}://{below.bucket}' is no bucket of buckets or of a [storage.NAME].")
    elif settings.results and not Path(settings.results).is_absolute():
        raise wrong("results", f"'{settings.results}' is neither an absolute path nor s3://bucket/prefix.")


def _check_lists(settings: Settings, wrong: Callable[[str, str], ConfigError]) -> None:
    for tier in set(settings.tiers) - set(TIERS):
        raise wrong("tiers", f"{tier} is not one of {', '.join(map(str, TIERS))}.")
    for port in [one for one in settings.public_ports if not 1 <= one <= 65535]:
        raise wrong("public_ports", f"{port} is no port.")
    for host in [one for one in settings.private_hosts if network_of(one) is None and not HOST.fullmatch(one)]:
        raise wrong("private_hosts", f"'{host}' is neither a host's name nor an address nor a network.")
    for origin in settings.gateway_origins:
        if not ORIGIN.fullmatch(origin):
            raise wrong("gateway_origins", f"'{origin}' is no origin such as https://shop.example.")
    _check_folders(settings, wrong)


def _check_folders(settings: Settings, wrong: Callable[[str, str], ConfigError]) -> None:
    folders = [("roots", one) for one in settings.roots] + [("templates", one) for one in settings.templates]
    for name, folder in [(name, one) for name, one in folders if not one.is_absolute()]:
        raise wrong(name, f"'{folder}' is no absolute path.")
    if settings.gateway_folder and not Path(settings.gateway_folder).is_absolute():
        raise wrong("gateway_folder", f"'{settings.gateway_folder}' is no absolute path.")
    for folder in [one for one in settings.templates if not one.is_dir()]:
        raise wrong("templates", f"the folder '{folder}' is not there.")


def _check_notices(settings: Settings, wrong: Callable[[str, str], ConfigError]) -> None:
    """Webhooks and mails. What may hold a secret is never quoted."""
    for text in settings.webhooks:
        if reason := what_is_wrong_with(text):
            raise wrong("webhooks", f"'{safe_address(text.split()[0])}' {reason}")
    if not all(is_secret(one) for one in settings.webhook_secrets) or len(settings.webhook_secrets) > SECRETS_MAX:
        raise wrong("webhook_secrets", "takes one or two of the form whsec_ and 24 to 64 bytes in Base64.")
    if not all(0 <= delay_s <= 604800 for delay_s in settings.webhook_schedule_s):
        raise wrong("webhook_schedule_s", "takes waits of 0 to 604800 seconds.")
    if settings.smtp_url and (reason := what_is_wrong_with_server(settings.smtp_url)):
        raise wrong("smtp_url", reason)
    if settings.smtp_url and not (settings.mail_from and settings.mail_to):
        raise wrong("smtp_url", "needs mail_from and mail_to as well.")
    for name, address in (("mail_from", settings.mail_from), *(("mail_to", one) for one in settings.mail_to)):
        if address and not ADDRESS.fullmatch(address):
            raise wrong(name, f"'{address}' is no mail address.")
