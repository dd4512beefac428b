"""docker-compose.yml, without a Docker engine: every path, variable, user and command in it exists."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from debian import program
from redis_server import wait_for
from spanledger.limits.store.protocol import Controls, StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import grants as rights
from spanledger_clickhouse.demo import run as demo

pytestmark = pytest.mark.services

TEXT = (ROOT / "docker-compose.yml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = STACK["services"]
EXAMPLE = (ROOT / "deploy/env.example").read_text()


def test_every_mounted_path_exists():
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    for source, *_ in mounts:
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in STACK["volumes"], source
    assert {source for source, *_ in mounts if not source.startswith(".")} == set(STACK["volumes"])


def test_every_variable_is_in_the_example_and_no_secret_has_a_default():
    named = set(re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE))
    used = dict(re.findall(r"\$\{(\w+)(:?[-?][^}]*)?\}", TEXT))
    assert set(used) == named
    assert re.search(r"^\w+=\S", EXAMPLE, re.MULTILINE) is None, "the example has no values"
    for name in named:
        if name.endswith(("PASSWORD", "TOKEN")):
            demanded = re.findall(rf"\$\{{{name}(:?[-?][^}}]*)?\}}", TEXT)
            assert any(how.startswith(":?") for how in demanded), f"{name} must be set"
            assert not any(how.startswith((":-", "-")) for how in demanded), f"{name} has a default"


def test_images_are_pinned_and_ports_are_bound_to_localhost():
    for name, service in SERVICES.items():
        assert re.search(r":[\w.]*\d[\w.]*$|:local$", service["image"]), f"{name}: {service['image']}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} listens to everybody"
    for name in ("clickhouse", "gateway", "grafana", "redis"):
        assert SERVICES[name]["healthcheck"]["test"]


def test_every_dependency_of_a_service_is_a_service():
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", ["gateway", "rollup", "guard"])
def test_every_command_of_a_service_exists(name: str):
    program, command, *arguments = SERVICES[name]["command"]
    assert program == "spanledger"
    made = main.commands[command].make_context(command, list(arguments))
    if name == "gateway":
        assert (made.params["host"], made.params["port"], made.params["no_rollups"]) == ("0.0.0.0", 4319, True)


def test_other_commands_and_configurations_exist():
    for step in SERVICES["migrate"]["command"][-1].split(" && "):
        _, command, *rest = step.split()
        found = main.commands[command]
        assert not rest or rest[0] in getattr(found, "commands", {})
    assert (ROOT / SERVICES["app"]["command"][-1]).exists()
    for configuration in re.findall(r"--config=/etc/otelcol/(\S+?)\"", TEXT):
        assert (ROOT / "collector-config" / configuration).exists()


def test_redis_requires_its_password(tmp_path: Path):
    """The command of the service, as a shell of the image would run it, with the redis-server of this machine."""
    shell, option, script = SERVICES["redis"]["command"]
    program("redis-server")
    port = demo.free_port()
    for known, ours in {"$$": "$", "/tmp/": f"{tmp_path}/", "/data": str(tmp_path)}.items():
        script = script.replace(known, ours)
    words = [shell, option, f"{script} --port {port}"]
    server = subprocess.Popen(words, env={**os.environ, "REDISCLI_AUTH": "s3cret"}, stdout=subprocess.DEVNULL)
    try:
        known = RedisStore(f"redis://:s3cret@127.0.0.1:{port}/0", deadline=1)
        wait_for(port)
        assert known.controls() == Controls()
        assert known._client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(StoreError, match="AuthenticationError"):
            RedisStore(f"redis://127.0.0.1:{port}/0", deadline=1).controls()
        assert b"s3cret" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    finally:
        server.terminate()
        assert server.wait(10) == 0, "it hears of the end"


def test_the_collector_gets_every_variable_of_its_configuration():
    configuration = (ROOT / "collector-config/gateway.yaml").read_text()
    known = set(re.findall(r"\$\{env:(\w+)", configuration))
    assert set(SERVICES["collector"]["environment"]) <= known
    assert known - set(SERVICES["collector"]["environment"]) == {"SPANLEDGER_COLLECTOR_HEALTH_PORT"}


def test_grafana_gets_every_variable_of_its_provisioning():
    folder = ROOT / "exporter/spanledger_clickhouse/grafana/provisioning"
    used = {name for file in folder.rglob("*.yaml") for name in re.findall(r"\$\{?([A-Z][A-Z_]+)", file.read_text())}
    assert used <= set(SERVICES["grafana"]["environment"])
    contact = yaml.safe_load((folder / "alerting/contact-points.yaml").read_text())
    names = {point["name"] for point in contact["contactPoints"]}
    assert not [file for file in folder.rglob("*.yaml") if "policies" in yaml.safe_load(file.read_text())], (
        "it would replace the user's tree"
    )
    [policy] = yaml.safe_load((folder.parent / "notification-policies/policies.yaml").read_text())["policies"]
    assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} <= names


def test_the_users_of_the_stack_have_the_rights_that_the_command_prints():
    tree = ET.parse(ROOT / "deploy/clickhouse-users.xml")
    made = rights.statements("spanledger")
    for role in ("gateway", "guard", "reader", "maintainer"):
        user = tree.find(f"users/spanledger_{role}")
        assert user is not None
        grants = [query.text for query in user.findall("grants/query")]
        wanted = [
            s.replace("`", "").removesuffix(f" TO spanledger_{role}")
            for s in made
            if s.startswith("GRANT") and s.endswith(f" TO spanledger_{role}")
        ]
        assert grants == wanted
        password = user.find("password")
        assert password is not None
        assert password.get("from_env") in SERVICES["clickhouse"]["environment"]
    assert tree.find("users/default") is not None


def test_the_script_for_clusters_says_what_it_needs(tmp_path: Path):
    script = ROOT / "deploy/verify-cluster.sh"
    subprocess.run([program("bash"), "-n", script], check=True)
    done = subprocess.run(
        [program("bash"), script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "FAILED: spanledger is not on the PATH\n")
