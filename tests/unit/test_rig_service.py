"""The rig's grip on the service, tried on a stand-in with the same shape of process tree."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.rig.service import Service
from tests.waiting import wait_until

TIMEOUT_S = 20

STAND_IN = '''
"""A supervisor with a sidecar and two workers, one of them a grandchild."""
import http.server, json, os, signal, subprocess, sys

if "--workers" in sys.argv:
    assert sys.argv[-1] == "2"
children = [subprocess.Popen([sys.executable, "-m", "healthcheck"])]
script = (
    "import subprocess, sys, time;"
    "nap = [sys.executable, '-c', 'import time; time.sleep(600)'];"
    "print(subprocess.Popen(nap).pid, flush=True); time.sleep(600)"
)
server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
children.append(server)
worker = int(server.stdout.readline())
print(json.dumps({"event": "started", "topic": os.environ.get("KAFKA_TOPICS")}), file=sys.stderr)
print("not json", file=sys.stderr)

class Page(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Page.asked += 1
        good = Page.asked > 2
        body = json.dumps({
            "status": "ok" if good else "failed",
            "topics": {"orders": {"state": "active", "pid": worker, "rows": 1},
                       "dead": {"state": "stopped", "pid": None}},
        }).encode()
        self.send_response(200 if good else 503)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

def stop(*_):
    for child in children:
        child.kill()
    os.kill(worker, signal.SIGKILL)
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
if os.environ.get("FAIL"):
    stop_code = 78
    for child in children:
        child.kill()
    os.kill(worker, signal.SIGKILL)
    sys.exit(stop_code)
address = (os.environ["HEALTH_HOST"], int(os.environ["HEALTH_PORT"]))
http.server.HTTPServer(address, Page).serve_forever()
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the stand-in's two modules."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "healthcheck.py").write_text("import time\ntime.sleep(600)\n")
    return tmp_path


@pytest.fixture
def service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Give a running stand-in."""
    monkeypatch.setenv("KAFKA_TOPICS", "of-the-shell")
    with Service({"LOG_LEVEL": "INFO"}, 2, module="stand_in", folder=folder) as made:
        yield made


def test_service_waits_for_health(service: Service) -> None:
    """The page turns good by itself, and its HTTP status is what counts."""
    assert service.wait_unhealthy(TIMEOUT_S)["http_status"] == 503
    assert service.wait_healthy(TIMEOUT_S)["status"] == "ok"
    service.wait_ready(TIMEOUT_S)


def test_service_knows_its_processes(service: Service) -> None:
    """Supervisor, sidecar, forkserver and its child: each is found and measured."""
    service.wait_healthy(TIMEOUT_S)
    pids = service.all_pids()
    assert len(pids) == 4
    assert service.pid in pids and service.sidecar_pid() in pids
    assert list(service.worker_pids()) == ["orders"]
    assert service.worker_pids()["orders"] in pids
    assert service.pid != service.sidecar_pid()
    assert service.pss_bytes() > 4 * 1_000_000
    assert len(service.cpu_seconds()) == 4 and sum(service.cpu_seconds().values()) > 0


def test_service_reads_the_log(service: Service) -> None:
    """Events are told from other output, and the shell's settings did not leak in."""
    service.wait_healthy(TIMEOUT_S)
    wait_until(lambda: service.log_strays(), TIMEOUT_S, "the log is written")
    assert service.log_events() == [{"event": "started", "topic": None}]
    assert service.log_events("stopped") == []
    assert service.log_strays() == ["not json"]


def test_service_terminates(service: Service) -> None:
    """SIGTERM goes to the supervisor, whose exit code is the verdict."""
    service.wait_healthy(TIMEOUT_S)
    assert service.terminate(TIMEOUT_S) == 0
    service.wait_gone(TIMEOUT_S)
    assert service.health() == {}


def test_service_kills_the_supervisor_alone(service: Service) -> None:
    """Its children stay, and are still known, so that a test can see them stop by themselves."""
    service.wait_healthy(TIMEOUT_S)
    service.kill_supervisor()
    assert service.exit_code == -signal.SIGKILL
    assert len(service.all_pids()) == 3
    with pytest.raises(AssertionError, match="all ended"):
        service.wait_gone(0.2)


def test_service_starts_again(service: Service) -> None:
    """After a restart nothing of the old run is left, and the port is the same."""
    service.wait_healthy(TIMEOUT_S)
    old = service.all_pids()
    service.kill_supervisor()
    service.restart()
    service.wait_healthy(TIMEOUT_S)
    assert not set(old) & set(service.all_pids())
    assert len(service.log_events("started")) == 2


def test_service_leaves_nothing_behind(folder: Path) -> None:
    """Also when the supervisor was killed and the test failed."""
    with pytest.raises(RuntimeError, match="the test failed"):
        with Service({}, module="stand_in", folder=folder) as service:
            service.wait_healthy(TIMEOUT_S)
            processes = [psutil.Process(pid) for pid in service.all_pids()]
            service.kill_supervisor()
            raise RuntimeError("the test failed")
    assert len(processes) == 4
    # One that nobody has waited for yet is still listed, and does nothing any more.
    living = [process for process in processes if process.is_running()]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in living)
    assert not service.log_path.exists()


def test_service_waiting_ends_with_the_supervisor(folder: Path) -> None:
    """A service that refused to start is reported at once, with its log."""
    with Service({"FAIL": "1"}, module="stand_in", folder=folder) as service:
        with pytest.raises(AssertionError, match="the supervisor ended .*\n.*started"):
            service.wait_healthy(TIMEOUT_S)
        assert service.wait(TIMEOUT_S) == 78
