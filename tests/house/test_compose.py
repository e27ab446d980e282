"""compose.yaml: what it starts, of images that the project builds itself."""

from __future__ import annotations

from typing import Any

import yaml

from tests.house.tree import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_every_image_is_built_here() -> None:
    """Each service names a recipe of the project, which is there."""
    for name, service in SERVICES.items():
        build = service["build"]
        recipe = ROOT / build["context"] / build.get("dockerfile", "Dockerfile")
        assert recipe.is_file(), name
        assert service["image"].startswith("toolgate"), name


def test_no_two_gateways_share_a_home_and_all_share_the_redis() -> None:
    """Two of them, each with a volume of its own."""
    gateways = [service for service in SERVICES.values() if service["image"] == "toolgate:dev"]
    assert len(gateways) == 2
    homes = [volume.split(":")[0] for gateway in gateways for volume in gateway["volumes"]]
    assert len(set(homes)) == 2
    assert set(homes) <= COMPOSE["volumes"].keys()
    assert {gateway["environment"]["TOOLGATE_STORE"] for gateway in gateways} == {"redis://redis:6379/0"}
    assert all("ports" not in service for name, service in SERVICES.items() if name != "balancer")


def test_the_balancer_asks_who_is_ready_and_sticks_to_nobody() -> None:
    """Both gateways by their names, looked after on /readyz, and no call that was sent goes to another one."""
    said = (ROOT / "deploy/haproxy.cfg").read_text()
    assert "uri /readyz" in said
    assert "cookie" not in said
    assert "retry-on conn-failure" in said
    for name, service in SERVICES.items():
        if service["image"] == "toolgate:dev":
            assert f"server {name} {name}:8080 check" in said
