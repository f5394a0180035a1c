"""The bridge's settings: where they come from, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.config import Settings, load_settings
from comfyui_sonic.queue_bridge.errors import ConfigError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"


def test_hosts_around_us_are_names_addresses_and_networks() -> None:
    reach = load_settings({"SONIC_QUEUE_PRIVATE_HOSTS": "minio.local, 10.1.0.0/16,fd12::1"}).reach
    assert (reach.names(), len(reach.networks()), reach.ports) == ({"minio.local"}, 2, (80, 443))


def test_without_a_url_there_is_no_bridge() -> None:
    assert load_settings({}).url == ""


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "queue.toml"
    file.write_text('url = "redis://a"\nlease_s = 60\ntiers = [512, 768]\nroots = ["/data"]\n')
    settings = load_settings({"SONIC_QUEUE_CONFIG": str(file), "SONIC_QUEUE_LEASE_S": "45", "HOME": "/"})
    assert (settings.url, settings.lease_s, settings.tiers) == ("redis://a", 45.0, (512, 768))
    assert settings.roots == (Path("/data"),)
    assert settings.prefix == "{sonic}"


def test_lists_in_the_environment_are_separated_as_people_expect(tmp_path: Path) -> None:
    settings = load_settings({"SONIC_QUEUE_ROOTS": "/a:/b c", "SONIC_QUEUE_TIERS": "512,1024"})
    assert (settings.roots, settings.tiers) == ((Path("/a"), Path("/b c")), (512, 1024))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "WEBHOOKS",
            "https://a/ job.done",
            "SONIC_QUEUE_WEBHOOKS: 'https://a/' names the event 'job.done'; ",
        ),
        ("WEBHOOKS", "https://u:s3@a/?k=s3", "SONIC_QUEUE_WEBHOOKS: 'https://a/' holds a user or password"),
        ("WEBHOOKS", "mailto:a@b", "SONIC_QUEUE_WEBHOOKS: 'mailto://a@b' is no http:// or https:// address."),
        ("WEBHOOK_SECRETS", "s3cret", "SONIC_QUEUE_WEBHOOK_SECRETS: takes one or two of the form whsec_"),
        ("WEBHOOK_SCHEDULE_S", "5,-1", "SONIC_QUEUE_WEBHOOK_SCHEDULE_S: takes waits of 0 to 604800 seconds."),
        ("SMTP_URL", "http://h", "SONIC_QUEUE_SMTP_URL: is none of smtp://HOST"),
        ("SMTP_URL", "smtp://h", "SONIC_QUEUE_SMTP_URL: needs mail_from and mail_to as well."),
        ("MAIL_TO", "nobody", "SONIC_QUEUE_MAIL_TO: 'nobody' is no mail address."),
        ("PUBLIC_PORTS", "443,0", "SONIC_QUEUE_PUBLIC_PORTS: 0 is no port."),
        ("PRIVATE_HOSTS", "http://nas", "SONIC_QUEUE_PRIVATE_HOSTS: 'http://nas' is neither a host's name nor an"),
        ("PRIVATE_HOSTS", "10.0.0.0/99", "SONIC_QUEUE_PRIVATE_HOSTS: '10.0.0.0/99' is neither a host's name"),
        ("LEASE_S", "soon", "SONIC_QUEUE_LEASE_S: 'soon' is no number."),
        ("LEASE_S", "0.1", "SONIC_QUEUE_LEASE_S: 0.1 is outside 1 to 3600."),
        ("LEASE_S", "nan", "SONIC_QUEUE_LEASE_S: 'nan' is no number."),
        ("HEARTBEAT_S", "20", "SONIC_QUEUE_HEARTBEAT_S: 20 is more than a third of lease_s (30)."),
        ("RETRIES", "1.5", "SONIC_QUEUE_RETRIES: '1.5' is no whole number."),
        ("RETRIES", "-1", "SONIC_QUEUE_RETRIES: -1 is outside 0 to 100."),
        ("TIERS", "512,600", "SONIC_QUEUE_TIERS: 600 is not one of 512, 768, 1024."),
        ("TIERS", "big", "SONIC_QUEUE_TIERS: 'big' is no whole number."),
        ("ROOTS", "data", "SONIC_QUEUE_ROOTS: 'data' is no absolute path."),
        ("TEMPLATES", "/not/there", "SONIC_QUEUE_TEMPLATES: the folder '/not/there' is not there."),
        ("INSTANCE", "a b", "SONIC_QUEUE_INSTANCE: 'a b' is no name: letters, digits, dots, dashes and underscores."),
        ("QUEUE", "{x}", "SONIC_QUEUE_QUEUE: '{x}' is no name: letters, digits, dots, dashes and underscores."),
        ("LEASES", "3", "SONIC_QUEUE_LEASES: is no setting; the settings are "),
    ],
)
def test_a_wrong_variable_is_one_sentence_that_names_it(variable: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings({f"SONIC_QUEUE_{variable}": value})
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lease = 3\n", "lease: is no setting; "),
        ("lease_s = 'x'\n", "lease_s: 'x' is no number."),
        ("tiers = 512\n", "tiers: is no list."),
        ("roots = [1]\n", "roots: is no text."),
        ("url = 3\n", "url: is no text."),
        ("retries = 2.0\n", "retries: '2.0' is no whole number."),
        ("lease_s 3\n", "SONIC_QUEUE_CONFIG: "),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_the_setting(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "queue.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_settings({"SONIC_QUEUE_CONFIG": str(file)})
    assert str(raised.value).startswith(words)


def test_a_file_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^SONIC_QUEUE_CONFIG: '/not/there' cannot be read: "):
        load_settings({"SONIC_QUEUE_CONFIG": "/not/there"})


def test_a_password_in_the_url_is_not_shown_with_the_settings() -> None:
    assert "secret" not in repr(load_settings({"SONIC_QUEUE_URL": "redis://:secret@host"}))


def test_the_document_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]*)`? \|", DOCUMENT.read_text(encoding="utf-8"), re.M))
    assert set(rows) == {one.name for one in dataclasses.fields(Settings)}
    for one in dataclasses.fields(Settings):
        assert one.metadata["meaning"] in DOCUMENT.read_text(encoding="utf-8"), one.name
        default = one.default
        shown = "" if default in ((), "") else f"{default:g}" if isinstance(default, float) else str(default)
        shown = shown.lower() if isinstance(default, bool) else shown
        shown = ", ".join(f"{value:g}" for value in default) if isinstance(default, tuple) else shown
        assert rows[one.name].strip() == shown, one.name


def test_a_switch_is_read_from_words_and_from_toml_and_nothing_else(tmp_path: Path) -> None:
    assert load_settings({"SONIC_QUEUE_DURABLE": "yes"}).durable
    assert not load_settings({"SONIC_QUEUE_EXIT_WHEN_UNHEALTHY": "0"}).exit_when_unhealthy
    file = tmp_path / "queue.toml"
    file.write_text("durable = true")
    assert load_settings({"SONIC_QUEUE_CONFIG": str(file)}).durable
    with pytest.raises(ConfigError, match=r"^SONIC_QUEUE_DURABLE: 'perhaps' is not true or false\.$"):
        load_settings({"SONIC_QUEUE_DURABLE": "perhaps"})
