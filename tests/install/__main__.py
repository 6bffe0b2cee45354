"""`python -m tests.install`: follow docs/install.md to the letter, and watch messages arrive."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.install.machine import MIRROR, Machine, make_tree, missing_tools
from tests.install.page import PAGE, sections
from tests.integration import lakeside as ls
from tests.services import KafkaService, MinioService, ServiceProvider
from tests.services.ports import free_ports
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
USER = "alice"
BUCKET_PREFIX = "install"
LAND_S = 60
MESSAGES = 50
SECTIONS = ("Packages", "User", "Program", "Settings", "Secrets", "Unit", "Check", "Start",
            "Upgrade", "Going back", "Uninstall")
"""In the order of the page; after three of them messages must arrive."""
PROVED = {"Start", "Upgrade", "Going back"}
BRANCH = "release"


def main() -> int:
    """Exit 0 when each command of the page went well and each message arrived once."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.install")
    parser.add_argument("--tree", type=Path, help="a tree made before; it is changed")
    parser.add_argument("--mirror", default=MIRROR, help="where Debian's packages are")
    parser.add_argument("--previous", default="HEAD~1", help="the release to upgrade from")
    options = parser.parse_args()
    lacking = missing_tools()
    if os.geteuid() != 0 or lacking:
        print(f"needs root, and: {', '.join(lacking) or 'nothing else'} "
              "(apt-get install debootstrap systemd-container)", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bronze-install-"))
    provider = ServiceProvider(tell)
    try:
        tree = options.tree or folder / "tree"
        if options.tree is None:
            tell("installing a bare Debian")
            make_tree(tree, options.mirror)
        Check(provider, tree, options.previous).run()
    finally:
        provider.close()
        shutil.rmtree(folder, ignore_errors=True)
    tell("the page holds")
    return 0


def tell(text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Check:
    """Follows the page on one tree."""

    def __init__(self, provider: ServiceProvider, tree: Path, previous: str) -> None:
        self._kafka: KafkaService = provider.kafka()
        self._minio: MinioService = provider.minio()
        self._tree, self._previous = tree, previous
        self._id = uuid.uuid4().hex[:8]
        self._topics = [f"orders-{self._id}", f"payments-{self._id}"]
        self._prefix = f"{BUCKET_PREFIX}-{self._id}"
        (self._port,) = free_ports(1)
        self._secrets = {"kafka-sasl-password": self._kafka.users[USER],
                         "s3-secret-access-key": f"secret-{uuid.uuid4().hex}"}
        self._sent = 0

    def run(self) -> None:
        """Raises AssertionError where the page fails its reader."""
        self._prepare()
        blocks = sections(PAGE.read_text(encoding="utf-8"), self._own())
        assert tuple(title for title in blocks if blocks[title]) == SECTIONS
        with Machine(self._tree, _pip_environ(self._tree)) as machine:
            for title in SECTIONS:
                tell(title)
                if title == "Upgrade":
                    self._publish("HEAD")
                for block in blocks[title]:
                    machine.run(block, self._typed(block))
                if title in PROVED:
                    self._prove(machine)
            left = machine.run("ls -d /opt/* /etc/bronze* /usr/local/src/* 2>/dev/null || true")
            assert left == "", left

    def _own(self) -> dict[str, str]:
        lake = self._minio.environment(self._prefix)
        return {
            "https://git.example.org/bronze-ingestion.git": "/srv/bronze-ingestion.git",
            "kafka1.example.org:9093": str(self._kafka.sasl_bootstrap),
            "orders,payments": ",".join(self._topics),
            "KAFKA_SECURITY_PROTOCOL=SASL_SSL": "KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT",
            "KAFKA_SASL_USERNAME=bronze-ingestion": f"KAFKA_SASL_USERNAME={USER}",
            "LAKE_URI=s3://lake/bronze": f"LAKE_URI={lake['LAKE_URI']}",
            "https://s3.example.org": f"{lake['AWS_ENDPOINT_URL']}\nAWS_ALLOW_HTTP=true",
            "AWS_ACCESS_KEY_ID=bronze-ingestion": f"AWS_ACCESS_KEY_ID=bronze-{self._id}",
            "HEALTH_PORT=8080": f"HEALTH_PORT={self._port}\nKAFKA_GROUP_ID=group-{self._id}",
            "127.0.0.1:8080": f"127.0.0.1:{self._port}",
        }

    def _prepare(self) -> None:
        """What the page's reader has: topics, a user of the store with the policy, a repository."""
        ls.create_topics(self._kafka, self._topics)
        policy = (ROOT / "deploy" / "s3-policy.json").read_text(encoding="utf-8")
        policy = policy.replace(":::lake/bronze", f":::{self._minio.bucket}/{self._prefix}")
        policy = policy.replace(':::lake"', f':::{self._minio.bucket}"')
        self._minio.put_user(
            f"bronze-{self._id}", self._secrets["s3-secret-access-key"], json.loads(policy))
        shutil.copy("/etc/resolv.conf", self._tree / "etc" / "resolv.conf")
        git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(self._repository))
        self._publish(self._previous)

    @property
    def _repository(self) -> Path:
        return self._tree / "srv" / "bronze-ingestion.git"

    def _publish(self, revision: str) -> None:
        git("push", "--quiet", "--force", str(self._repository), f"{revision}:refs/heads/{BRANCH}")

    def _typed(self, block: str) -> str:
        """What is typed when a command asks for it."""
        if "/dev/stdin" not in block:
            return ""
        return self._secrets[block.strip().rpartition("/")[2]] + "\n"

    def _prove(self, machine: Machine) -> None:
        """Messages arrive, the unit is as the page says, and no secret is to be seen."""
        for topic in self._topics:
            ls.send(self._kafka.bootstrap, topic,
                    ls.numbered(MESSAGES, first=self._sent))
        self._sent += MESSAGES
        lake = ls.store_lake(self._minio, self._prefix)
        for topic in self._topics:
            wait_until(lambda topic=topic: len(ls.rows(lake, topic)) >= self._sent, LAND_S,
                       lambda: f"messages arrived\n{self._journal(machine)}")
            assert ls.offsets_of(ls.rows(lake, topic)) == list(range(self._sent))
        shown = machine.run("systemctl show bronze-ingestion -p ActiveState -p StatusText -p User")
        assert "ActiveState=active" in shown and "topics active" in shown, shown
        pids = machine.run("cat $(systemctl show -P ControlGroup bronze-ingestion | "
                           "sed 's|^|/sys/fs/cgroup/systemd|')/cgroup.procs").split()
        seen = machine.run("; ".join(
            f"cat /proc/{pid}/environ /proc/{pid}/cmdline | tr '\\0' '\\n'" for pid in pids))
        assert len(pids) > len(self._topics)
        for secret in self._secrets.values():
            assert secret not in seen + self._journal(machine) + shown
        assert "/run/credentials/bronze-ingestion.service/" in seen

    def _journal(self, machine: Machine) -> str:
        return machine.run("journalctl -u bronze-ingestion --no-pager -o cat | tail -n 60")


def git(*arguments: str) -> None:
    """Run git in this checkout; raises CalledProcessError."""
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, timeout=120)


def _pip_environ(tree: Path) -> dict[str, str]:
    """This host's own way to Python's packages, if it has one."""
    environ = {name: value for name, value in os.environ.items()
               if name.startswith("PIP_") or name.lower().endswith("_proxy")}
    certificates = environ.get("PIP_CERT")
    if certificates is not None:
        shutil.copy(certificates, tree / "etc" / "pip-certificates.pem")
        environ["PIP_CERT"] = "/etc/pip-certificates.pem"
    return environ


if __name__ == "__main__":
    sys.exit(main())
