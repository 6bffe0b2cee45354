"""`python -m supervisor`: arguments and configuration in, an exit code out."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from shared.config import Config


def main() -> int:
    """Run the service; the exit codes are in shared/exit_codes.py."""
    from supervisor.arguments import parse

    arguments = parse(sys.argv[1:])
    if arguments.demo:
        os.execv(sys.executable, [sys.executable, "-m", "demo"])

    from shared.config import ConfigError, load
    from shared.exit_codes import ExitCode

    try:
        config = load(os.environ, workers=arguments.workers)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIG
    if arguments.check_config:
        print(f"The configuration is good: {len(config.topics)} topics into {config.lake.uri}.")
        return ExitCode.OK
    return serve(config)


def serve(config: Config) -> int:
    """Start everything; bad luck with the port or the runtime folder is told like bad config."""
    from shared.errors import BlockError
    from shared.exit_codes import ExitCode
    from shared.logs import configure
    from supervisor.port import PortTaken, choose_port
    from supervisor.process_environment import settle
    from supervisor.supervisor import Supervisor

    configure(config.log.level, config.log.format.value)
    settle(os.environ)
    try:
        port = choose_port(config.health.host, config.health.port)
        supervisor = Supervisor(config, port)
    except (PortTaken, BlockError) as error:
        print(f"{error}; {error.what_to_do}", file=sys.stderr)
        return ExitCode.CONFIG
    _leave(supervisor.run())


def _leave(code: int) -> NoReturn:
    """End at once: leaving by `sys.exit` would wait for a request to a store that does not answer.

    What it decided, or not, the next start finds in the lake; any moment is safe.
    """
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
