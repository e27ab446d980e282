"""What settings may declare of identity."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.declared import Identity

KEYS = "https://login.example.com/keys"


def _spiffe(iss: str) -> dict[str, Any]:
    return {"iss": iss, "kind": "spiffe", "jwks": KEYS, "audience": ["toolgate"]}


@pytest.mark.parametrize("resource", ["toolgate", "gateway.example.com", "ftp://a.example", "http://a.example/mcp", ""])
def test_the_resource_is_a_url(resource: str) -> None:
    """Clients build the place of the metadata from it (RFC 9728), and tokens are told apart by it."""
    with pytest.raises(ValidationError):
        Identity(resource=resource)


@pytest.mark.parametrize("resource", [None, "https://gateway.example.com/mcp", "http://127.0.0.1:8080/mcp"])
def test_a_url_is_taken_as_it_stands(resource: str | None) -> None:
    """Over https, or of this machine; byte for byte, as `aud` is compared."""
    assert Identity(resource=resource).resource == resource


def test_a_trust_domain_is_declared_once() -> None:
    """With its scheme or without, it is the same one; of two, one would never be asked."""
    for names in (["spiffe://corp.example", "corp.example"], ["corp.example", "corp.example"]):
        with pytest.raises(ValidationError, match="declared once"):
            Identity.model_validate({"issuers": [_spiffe(name) for name in names]})
    both = Identity.model_validate({"issuers": [_spiffe("spiffe://a.example"), _spiffe("b.example")]})
    assert len(both.made()) == 2
