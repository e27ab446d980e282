"""What settings may declare of providers, and what they may not: each is refused with a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.settings import BadSettings, Settings, load_settings

HTTPS = "https://login.example.com"
OWN = {"grant": "client_credentials", "token_url": f"{HTTPS}/t", "client_id": "c", "client_secret": "env:X"}
CONNECT = {"grant": "connect", "token_url": f"{HTTPS}/t", "authorize_url": f"{HTTPS}/a", "client_id": "c"}


def loaded(provider: Mapping[str, Any], **flags: Any) -> Settings:
    """Settings with one provider `p`."""
    return load_settings(None, {}, {"providers": {"p": provider}, **flags})


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ({**OWN, "token_url": "http://login.example.com/t"}, "must be https"),
        ({**OWN, "revoke_url": "ftp://login.example.com/t"}, "is no URL"),
        ({**OWN, "client_secret": None}, "client_secret is needed"),
        ({**OWN, "client_secret": "oauth:p"}, "should match"),
        ({**OWN, "grant": "password"}, "should be"),
        ({**OWN, "grant": "connect"}, "authorize_url"),
        ({**OWN, "authorize_url": f"{HTTPS}/a"}, "authorize_url"),
        ({**OWN, "grant": "refresh_token"}, "refresh_token"),
        ({**OWN, "refresh_token": "env:R"}, "refresh_token"),
        ({**OWN, "secret": "x"}, "there is no such setting"),
    ],
)
def test_a_provider_that_cannot_work_is_refused(provider: Mapping[str, Any], says: str) -> None:
    """Before anything is served."""
    with pytest.raises(BadSettings) as error:
        loaded(provider)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("flags", "site"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"listen": "[::1]:80"}, "http://[::1]:80"),
        ({"identity.resource": "https://GW.example.com:8443/mcp"}, "https://gw.example.com:8443"),
        ({"identity.resource": "https://gw.example.com/mcp", "listen": "0.0.0.0:80"}, "https://gw.example.com"),
        ({"identity.resource": "http://127.0.0.1:9/mcp"}, "http://127.0.0.1:9"),
    ],
)
def test_people_come_to_the_resource_or_to_this_machine(flags: Mapping[str, str], site: str) -> None:
    """Scheme, host and port of the gateway's own URL; on loopback the listening address will do."""
    assert loaded(CONNECT, **flags).site == site


def test_without_an_https_url_of_its_own_nobody_connects_from_outside() -> None:
    """Links and cookies would go in clear, or nowhere. Other grants need no such URL."""
    with pytest.raises(BadSettings) as error:
        loaded(CONNECT, listen="0.0.0.0:80")
    assert "set identity.resource to this server's https URL" in str(error.value)
    assert loaded(OWN, listen="0.0.0.0:80").connects == []
