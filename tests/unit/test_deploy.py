"""What is shipped in deploy/ agrees with the code and with what the service manager makes of it.

No container engine is needed: the Dockerfile and the compose file are read, not run.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared import config
from shared.config_settings import PROPERTY_PREFIX, SECRET_PAIRS, SETTINGS
from shared.exit_codes import ExitCode
from shared.priority import give_way

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "bronze-ingestion.service"
DROP_INS = sorted((DEPLOY / "drop-ins").glob("*.conf"))
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
TOOL_TIMEOUT_SECONDS = 60

Unit = dict[str, dict[str, list[str]]]


def parse_unit(path: Path) -> Unit:
    """Read a unit file as {section: {key: [values in order]}}; a key may be repeated there."""
    unit: Unit = {}
    section: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = unit.setdefault(line.strip("[] "), {})
            continue
        key, equals, value = line.partition("=")
        assert equals and key == key.strip(), f"{path.name}:{number} is not KEY=VALUE: {line}"
        section.setdefault(key, []).append(value.strip())
    return unit


def default_number(name: str) -> float:
    """The default of a numeric setting of the service."""
    default = DEFAULTS[name]
    assert default is not None
    return float(default)


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    """The [Service] section of the unit as shipped; the last value of a repeated key."""
    return {key: values[-1] for key, values in parse_unit(UNIT)["Service"].items()}


@pytest.fixture(scope="module")
def systemd_analyze() -> str:
    """Path of systemd-analyze, or a skip that says what was not checked."""
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("NOT CHECKED: systemd-analyze is missing here (apt-get install systemd)")
    return found


# --- the unit


def test_unit_prevents_a_restart_after_exactly_the_codes_that_say_so(
    service: dict[str, str],
) -> None:
    """Unit and code must not disagree on the restart policy: two services would fight for ever."""
    prevented = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert prevented == {int(code) for code in ExitCode if code and not code.restart}
    assert service["Restart"] == "on-failure"
    assert "SuccessExitStatus" not in service
    assert "RestartForceExitStatus" not in service


def test_unit_gives_start_and_stop_more_time_than_the_service_takes(
    service: dict[str, str],
) -> None:
    """The service ends by its own deadline and code before systemd cuts it short."""
    assert float(service["TimeoutStopSec"]) > default_number("STOP_DEADLINE_SECONDS")
    assert float(service["TimeoutStartSec"]) > default_number("START_DEADLINE_SECONDS")


def test_unit_retries_a_missing_dependency_for_ever_but_not_a_crash_loop(
    service: dict[str, str],
) -> None:
    """An outage of an hour must not leave the service in "failed"; a crash at start must."""
    limits = parse_unit(UNIT)["Unit"]
    interval = float(limits["StartLimitIntervalSec"][0])
    burst = int(limits["StartLimitBurst"][0])
    pause = float(service["RestartSec"])
    assert burst * (default_number("START_DEADLINE_SECONDS") + pause) > interval
    assert burst * (2 * pause) < interval


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("WatchdogSec", "30"),
        ("KillMode", "mixed"),
        ("OOMPolicy", "continue"),
        ("LimitCORE", "0"),
        ("RuntimeDirectory", "bronze-ingestion"),
        ("WorkingDirectory", "/opt/bronze-ingestion"),
        ("EnvironmentFile", "/etc/bronze-ingestion/environment"),
        ("ExecStart", "/opt/bronze-ingestion/.venv/bin/python -m supervisor --workers 8"),
        ("User", "bronze-ingestion"),
    ],
)
def test_unit_keeps_what_the_service_relies_on(
    service: dict[str, str], key: str, value: str
) -> None:
    """Each of these is relied on by the supervisor or promised in the runbook."""
    assert service[key] == value


def test_unit_and_container_get_the_memory_limit_and_a_quarter(
    service: dict[str, str]
) -> None:
    """Below the limit the kernel would kill workers that keep it; far above it protects nothing."""
    compose = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text(encoding="utf-8"))
    limit = default_number("MEMORY_LIMIT_MB")
    container = compose["services"]["bronze-ingestion"]
    given = {service["MemoryMax"].upper(), container["mem_limit"].upper()}
    assert given == {f"{limit * 1.25:.0f}M"}


def test_unit_has_no_reload(service: dict[str, str]) -> None:
    """`systemctl reload` must fail aloud, since configuration is read at the start only."""
    assert "ExecReload" not in service


def test_unit_lets_the_service_reach_kafka_and_the_store(service: dict[str, str]) -> None:
    """As shipped the unit must work on any network; limits are a drop-in to be filled in."""
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} == set(service["RestrictAddressFamilies"].split())
    assert not {"IPAddressDeny", "PrivateNetwork", "SocketBindDeny"} & set(service)


def test_unit_lets_processes_give_way_and_a_refusal_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keeper and health page lower their priority; under a stricter unit they work without."""
    filters = parse_unit(UNIT)["Service"]["SystemCallFilter"]
    assert filters.index("setpriority") > filters.index("~@privileged @resources")

    def refuse(by: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", refuse)
    assert give_way(5) is False
    monkeypatch.setattr(os, "nice", lambda by: by)
    assert give_way(5) is True


def test_only_one_place_changes_a_priority() -> None:
    """What calls it directly dies where the system forbids it: it did, under the shipped unit."""
    direct = [path.relative_to(ROOT).as_posix() for package in ("keeper", "healthcheck", "workers",
              "supervisor", "shared", "tools") for path in (ROOT / package).rglob("*.py")
              if "os.nice(" in path.read_text(encoding="utf-8")]
    assert direct == ["shared/priority.py"]


def test_unit_starts_without_any_secret_file(service: dict[str, str]) -> None:
    """LoadCredential with a path fails the start when the file is missing, so it is a drop-in."""
    assert not [key for key in service if key.startswith(("LoadCredential", "SetCredential"))]
    assert "_FILE=" not in service["Environment"]


@pytest.mark.parametrize(
    ("drop_in", "variable"),
    list(zip(("kafka-password.conf", "s3-secret.conf", "lineage-api-key.conf"), SECRET_PAIRS, strict=True)),
)
def test_credential_drop_in_points_the_service_at_its_credential(
    drop_in: str, variable: tuple[str, str]
) -> None:
    """The name under which systemd stores the secret is the one the service is told to open."""
    section = parse_unit(DEPLOY / "drop-ins" / drop_in)["Service"]
    name, _, path = section["LoadCredential"][0].partition(":")
    assert section["Environment"] == [f"{variable[1]}=%d/{name}"]
    assert path == f"/etc/bronze-ingestion/{name}"


def test_unit_scores_as_hardened(systemd_analyze: str) -> None:
    """1.5 or better on systemd's scale of exposure, as shipped."""
    done = subprocess.run(
        [systemd_analyze, "security", "--offline=yes", "--threshold=15", "--no-pager", str(UNIT)],
        capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path and path.stem)
def test_unit_is_valid_for_systemd(
    systemd_analyze: str, tmp_path: Path, drop_in: Path | None
) -> None:
    """A misspelt key or value is only a warning at run time, so it is found here."""
    # Verification looks for the program of ExecStart, which is not installed here.
    text = UNIT.read_text(encoding="utf-8")
    installed = "/opt/bronze-ingestion/.venv/bin/python"
    assert installed in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(installed, sys.executable), encoding="utf-8")
    if drop_in is not None:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(drop_in, folder)
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT_SECONDS,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "bronze-ingestion" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


# --- the environment file


def read_environment() -> tuple[dict[str, str], dict[str, str]]:
    """The example's variables that are set, and those that are commented out."""
    text = (DEPLOY / "environment.example").read_text(encoding="utf-8")
    pairs = re.findall(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$", text, flags=re.MULTILINE)
    names = [name for _, name, _ in pairs]
    assert len(names) == len(set(names)), "a variable is in the example twice"
    return (
        {name: value for off, name, value in pairs if not off},
        {name: value for off, name, value in pairs if off},
    )


def test_environment_example_names_every_setting_and_no_other() -> None:
    """The file is what an operator reads first; a missing variable cannot be found there."""
    on, off = read_environment()
    named = {name for name in {**on, **off} if not name.startswith(PROPERTY_PREFIX)}
    assert named == {setting.name for setting in SETTINGS}


def test_environment_example_sets_what_is_required_and_shows_true_defaults() -> None:
    """Copied as it is, the file changes no default."""
    on, off = read_environment()
    assert set(on) == {setting.name for setting in SETTINGS if setting.required}
    shown = {name: value for name, value in off.items() if DEFAULTS.get(name) is not None}
    assert shown == {name: default for name, default in DEFAULTS.items() if default is not None}


def test_environment_example_holds_no_secret() -> None:
    """A sample password is one that somebody keeps."""
    on, off = read_environment()
    for variable, _ in SECRET_PAIRS:
        assert {**on, **off}[variable] == ""


def test_environment_example_has_as_many_topics_as_the_unit_has_workers(
    service: dict[str, str],
) -> None:
    """The number of workers must equal the number of topics, or the service exits with 78."""
    on, _ = read_environment()
    assert service["ExecStart"].endswith(f"--workers {len(on['KAFKA_TOPICS'].split(','))}")


def test_environment_example_is_a_valid_configuration() -> None:
    """Copied as it is, on AWS with the machine's own role, the file is accepted."""
    on, _ = read_environment()
    assert len(config.load(on).topics) == 8


def test_environment_example_lines_are_valid_once_switched_on() -> None:
    """Who removes the # from a line gets that setting, and no complaint about its value."""
    on, off = read_environment()
    # Left out: the two ways of giving one secret, and a file that exists on the real host only.
    chosen = {name: value for name, value in off.items() if not name.endswith("_FILE") and value}
    chosen.pop("KAFKA_SSL_CA_LOCATION")
    secrets = {name: "a-password" for name, _ in SECRET_PAIRS}
    protocol = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
    loaded = config.load({**on, **chosen, **secrets, **protocol})
    assert loaded.kafka.client_properties()["socket.keepalive.enable"] == "true"


# --- the image


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, argument), continuation lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def instruction(name: str) -> list[str]:
    """The arguments of every instruction of that name."""
    return [argument for found, argument in dockerfile() if found == name]


def test_image_is_built_from_pinned_parts_without_build_tools() -> None:
    """The same checkout must give the same image, and a compiler has no place in it."""
    assert instruction("FROM")
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base) for base in instruction("FROM"))
    runs = " ".join(instruction("RUN"))
    assert "--only-binary=:all: -r requirements.txt" in runs
    assert not re.search(r"apt|gcc|build-essential", runs)
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        wanted = line.split("#")[0].strip()
        assert not wanted or wanted.startswith("-") or "==" in wanted, f"not pinned: {line}"


def test_image_runs_the_supervisor_as_an_ordinary_user() -> None:
    """Root in a container is root on the host's kernel."""
    user, group = instruction("USER")[-1].split(":")
    assert int(user) > 0 and int(group) > 0
    order = [name for name, _ in dockerfile()]
    assert "RUN" not in order[order.index("USER"):]
    assert json.loads(instruction("ENTRYPOINT")[-1]) == ["python", "-m", "supervisor"]
    assert instruction("STOPSIGNAL") == ["SIGTERM"]


def packages_imported_from(*entries: str) -> set[str]:
    """These packages of ours and all that they import, also inside functions, and so on."""
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    found, left = set(entries), list(entries)
    while left:
        for path in (ROOT / left.pop()).rglob("*.py"):
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            names = {name for node in tree for name in
                     ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                      else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}
            new = {name.split(".")[0] for name in names} & ours - found
            found |= new
            left += new
    return found


def test_image_holds_every_package_the_service_imports() -> None:
    """A package that is left out is an ImportError at the first start, or at the first use."""
    copied = {argument.split()[0] for argument in instruction("COPY")} - {"requirements.txt"}
    # The supervisor knows tools and demo by name only.
    assert copied == packages_imported_from("supervisor", "tools", "demo")


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server on loopback that gives every GET this status; yields its port and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(TOOL_TIMEOUT_SECONDS)


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_image_healthcheck_follows_livez(status: int, healthy: bool) -> None:
    """The check in the image is a program; it is run here as Docker would run it."""
    _, _, command = instruction("HEALTHCHECK")[-1].partition("CMD ")
    program, *arguments = json.loads(command)
    assert program == "python"
    with answering(status) as (port, asked):
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "HEALTH_PORT": str(port), "no_proxy": "*"},
            capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT_SECONDS,
        )  # fmt: skip
    assert asked == ["/livez"]
    assert (done.returncode == 0) is healthy, done.stderr


# --- the compose file


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The services of the compose file."""
    text = (DEPLOY / "docker-compose.yml").read_text(encoding="utf-8")
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def test_compose_pins_every_image(compose: dict[str, Any]) -> None:
    """A floating tag is another stack next month."""
    images = {name: part["image"] for name, part in compose.items() if "image" in part}
    assert set(compose) - set(images) == {"bronze-ingestion"}
    for image in images.values():
        assert re.fullmatch(r"[\w/]+:(\d+\.\d+\.\d+|RELEASE\.[\dTZ-]+)", image), image
    assert images["kafka"].startswith("apache/kafka:4.1.")


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    """Nothing of the trial stack, whose passwords are public, is open to the network."""
    ports = [port for part in compose.values() for port in part.get("ports", [])]
    assert len(ports) >= 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_starts_the_service_after_what_it_needs(compose: dict[str, Any]) -> None:
    """Topics and bucket exist, and the servers answer, before the service starts."""
    needs = compose["bronze-ingestion"]["depends_on"]
    assert {name: need["condition"] for name, need in needs.items()} == {
        "create-topics": "service_completed_successfully",
        "create-bucket": "service_completed_successfully",
    }
    for job, server in (("create-topics", "kafka"), ("create-bucket", "minio")):
        assert compose[job]["depends_on"][server]["condition"] == "service_healthy"
        assert compose[server]["healthcheck"]["test"][0] == "CMD"


def test_compose_configures_the_service_with_known_settings(compose: dict[str, Any]) -> None:
    """A misspelt variable would make the service exit with 78."""
    service = compose["bronze-ingestion"]
    assert set(service["environment"]) <= set(DEFAULTS)
    required = {setting.name for setting in SETTINGS if setting.required}
    assert required <= set(service["environment"])
    config.load({
        name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value)
        for name, value in service["environment"].items()
    })  # fmt: skip
    topics = service["environment"]["KAFKA_TOPICS"]
    assert service["command"] == ["--workers", str(len(topics.split(",")))]
    assert compose["create-topics"]["environment"]["TOPICS"] == topics


def test_compose_stops_and_confines_the_service_like_the_unit(compose: dict[str, Any]) -> None:
    """Docker cannot tell exit codes apart, so it restarts nothing; and root is not needed."""
    service = compose["bronze-ingestion"]
    grace = float(service["stop_grace_period"].removesuffix("s"))
    assert grace > default_number("STOP_DEADLINE_SECONDS")
    assert service["restart"] == "no"
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    uid = instruction("USER")[-1].split(":")[0]
    assert any(mount.startswith("/run/bronze-ingestion:") and f"uid={uid}" in mount
               for mount in service["tmpfs"])  # fmt: skip


@pytest.mark.parametrize("job", ["create-topics", "create-bucket"])
def test_compose_scripts_are_valid_shell(compose: dict[str, Any], job: str) -> None:
    """The two set-up jobs are scripts inside YAML, where a typo is seen by nobody."""
    script = compose[job]["command"][0]
    assert not re.search(r"(?<!\$)\$(?!\$)", script), "a single dollar sign is compose's own"
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("NOT CHECKED: no bash here to read the scripts of the compose file")
    done = subprocess.run(
        [shell, "-n", "-c", script.replace("$$", "$")],
        capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- the object store's policy


def policy() -> list[dict[str, Any]]:
    """The statements of the shipped policy."""
    text = (DEPLOY / "s3-policy.json").read_text(encoding="utf-8")
    statements: list[dict[str, Any]] = json.loads(text)["Statement"]
    return statements


def test_s3_policy_is_for_the_lake_of_the_examples(compose: dict[str, Any]) -> None:
    """Policy, compose file and environment file name one bucket and one prefix."""
    on, _ = read_environment()
    uri = on["LAKE_URI"]
    assert compose["bronze-ingestion"]["environment"]["LAKE_URI"] == uri
    arn = uri.replace("s3://", "arn:aws:s3:::")
    bucket = arn.rpartition("/")[0]
    for statement in policy():
        for resource in statement["Resource"]:
            assert resource == bucket or resource.startswith(f"{arn}/"), resource


def test_s3_policy_lets_nothing_but_logs_and_data_files_be_deleted() -> None:
    """Not the proof that a table was made once, nor a replay's plan, nor what others keep there."""
    actions = [(action, resource) for statement in policy()
               for action in statement["Action"] for resource in statement["Resource"]]  # fmt: skip
    assert not [action for action, _ in actions if "*" in action]
    deletable = [resource for action, resource in actions if action == "s3:DeleteObject"]
    assert deletable
    assert all(re.search(r"/(_bronze/log/|_delta_log/|_ingestion_date=)\*$", path) for path in deletable)
