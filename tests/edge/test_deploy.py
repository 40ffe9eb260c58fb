"""The files in deploy/ name commands and options that exist, and give a stop as long as the command needs."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pgonce.cli import main

DEPLOY = Path(__file__).parents[2] / "deploy"
SHUTDOWN = 25  # seconds that SIGTERM waits by default


def parse(arguments: list[str]) -> click.Context:
    """The context of the command that these arguments call.

    Raises:
        click.UsageError: an option or a command does not exist, or an argument is missing.
    """
    command: click.Command = main
    name = "pgonce"
    context = None
    rest = arguments
    while isinstance(command, click.Group):
        group = command
        context = group.make_context(name, list(rest), parent=context)
        if group.invoke_without_command and not set(rest) & set(group.commands):
            return context
        found_name, found, rest = group.resolve_command(context, rest)
        assert found is not None
        name, command = str(found_name), found
    return command.make_context(name, list(rest), parent=context)


def compose() -> dict[str, Any]:
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def pods() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        spec = each["spec"]
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template:
            found.append((each["metadata"]["name"], template["spec"]))
    return found


@pytest.fixture(autouse=True)
def _shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "shop.py").write_text("import pgonce\n\napp = pgonce.App()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("shop", None)  # of another test
    monkeypatch.setenv("PGONCE_APP", "shop:app")
    monkeypatch.setenv("PGONCE_DATABASE_URL", "postgresql://127.0.0.1:1/nothing")  # no command is run
    yield
    sys.modules.pop("shop", None)


def test_every_service_of_compose_calls_a_command_that_exists() -> None:
    commands = {name: service.get("command") for name, service in compose()["services"].items() if name != "postgres"}
    assert set(commands) >= {"migrate", "serve", "worker", "console"}
    for command in commands.values():
        parse(command)


def test_compose_lets_a_process_stop_as_long_as_it_needs() -> None:
    for name, service in compose()["services"].items():
        if name != "postgres":
            assert int(service["stop_grace_period"].removesuffix("s")) > SHUTDOWN


def test_compose_publishes_no_port_beyond_loopback_and_holds_no_secret() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "whsec_" not in text.replace("whsec_...", "")
    assert "${POSTGRES_PASSWORD:?" in text


def test_every_container_of_kubernetes_calls_a_command_that_exists() -> None:
    found = pods()
    assert {name for name, _ in found} >= {"pgonce-serve", "pgonce-worker", "nightly-backup"}
    for _, pod in found:
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            parse(container["args"])


def test_kubernetes_lets_a_pod_stop_as_long_as_it_needs_and_never_as_root() -> None:
    for _, pod in pods():
        pause = sum(
            int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            for container in pod["containers"]
            if "lifecycle" in container
        )
        assert pod["terminationGracePeriodSeconds"] > SHUTDOWN + pause
        assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("unit", sorted(path.name for path in (DEPLOY / "systemd").iterdir()))
def test_a_unit_calls_commands_that_exist_and_may_stop_as_long_as_it_needs(unit: str) -> None:
    lines = (DEPLOY / "systemd" / unit).read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    for key in ("ExecStartPre", "ExecStart"):
        program, *arguments = shlex.split(settings[key])
        assert Path(program).name == "pgonce"
        parse(arguments)
    assert int(settings["TimeoutStopSec"]) > SHUTDOWN


def test_systemd_understands_the_units() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in sorted((DEPLOY / "systemd").iterdir()):
        run = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        # The program itself is on the machine that the unit is copied to.
        unexpected = [line for line in run.stderr.splitlines() if unit.name in line and "is not executable" not in line]
        assert unexpected == []


def test_the_image_runs_as_a_user_and_asks_readyz() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    assert "USER 10001" in lines
    assert "/readyz" in lines
    assert 'ENTRYPOINT ["tini", "--", "pgonce"]' in lines
    command = next(line for line in lines.splitlines() if line.startswith("CMD"))
    parse(yaml.safe_load(command.removeprefix("CMD ")))
