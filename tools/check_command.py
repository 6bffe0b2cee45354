"""`python -m supervisor check`: looks at everything a start needs, and changes nothing.

Kafka and the store are looked at side by side, each within its own time-outs and both within
`LIMIT_S`; whatever was not reached by then says so.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from shared.config import Config, ConfigError, load
from shared.exit_codes import ExitCode
from supervisor.arguments import Parser, parse_strictly
from supervisor.cgroup import memory_max
from tools.check import Findings, judge, judge_defect, judge_faults
from tools.findings import Finding, Key, Memory
from tools.render import as_json, as_text, wants_colour
from tools.report import Report, masked

LIMIT_S = 28.0
"""Of all probes together.  Silent brokers take 23 s at most, a silent store 8 s."""

_DESCRIPTION = """\
Look at everything a start needs: configuration, memory, brokers, topics, rights, retention,
store, clock and tables. Nothing is changed; a few objects under _bronze/check/ in the lake are
made and deleted again."""
_SECRET_PROPERTIES = ("password", "secret", "key", "token", "pem", "jaas", "config")


def main(argv: Sequence[str]) -> int:
    """0 when nothing failed, 1 when something did, 78 for bad configuration."""
    parser = Parser(prog="python -m supervisor check", description=_DESCRIPTION,
                    allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    as_machine = parse_strictly(parser, argv).json
    try:
        config = load(os.environ)
    except ConfigError as error:
        _print(judge_faults(error), as_machine)
        return ExitCode.CONFIG
    try:
        report = masked(judge(config, gather(config)), secrets_of(config))
    except Exception as error:
        report = judge_defect(error)
    _print(report, as_machine)
    return report.exit_code()


def _print(report: Report, as_machine: bool) -> None:
    colour = wants_colour(os.environ, sys.stdout.isatty())
    print(as_json(report, "check") if as_machine else as_text(report, colour=colour))


def gather(config: Config, limit_s: float = LIMIT_S) -> Findings:
    """What the probes found within the limit."""
    from tools.kafka_probe import KafkaProbe
    from tools.store_probe import StoreProbe

    findings: dict[Key, Finding] = {
        Key("memory"): Memory(config.limits.memory_limit_mb, memory_max())}
    looks = (KafkaProbe(config, findings.__setitem__).look,
             StoreProbe(config, findings.__setitem__).look)
    run_side_by_side(looks, limit_s)
    return dict(findings)


def run_side_by_side(looks: Sequence[Callable[[], None]], limit_s: float) -> None:
    """Run each in a thread; one that takes longer is left behind and ends with the process."""
    deadline = time.monotonic() + limit_s
    threads = [threading.Thread(target=look, daemon=True) for look in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def secrets_of(config: Config) -> list[str]:
    """What must not show, whoever repeats it in an error."""
    kafka, lake = config.kafka, config.lake
    secrets = [secret.reveal() for secret in (kafka.sasl_password, lake.secret_access_key)
               if secret is not None]
    if lake.access_key_id is not None:
        secrets.append(lake.access_key_id)
    return secrets + [value.reveal() for name, value in kafka.properties
                      if any(part in name for part in _SECRET_PROPERTIES)]
