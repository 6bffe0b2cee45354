"""`python -m supervisor`: arguments and configuration in, an exit code out."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from shared.config import Config
    from supervisor.nursery import Nursery


def main() -> int:
    """Run the service or a tool; the exit codes are in shared/exit_codes.py."""
    from supervisor.arguments import TOOLS, parse, split

    command, argv = split(sys.argv[1:])
    if command in TOOLS:
        from supervisor.tool import run_tool

        _leave(run_tool(TOOLS[command].module, argv))
    arguments = parse(argv)
    if arguments.demo:
        os.execv(sys.executable, [sys.executable, "-m", "demo"])

    nursery = None if arguments.check_config else prepare()
    from shared.config import ConfigError, load
    from shared.exit_codes import ExitCode

    try:
        config = load(os.environ, workers=arguments.workers)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIG
    if nursery is None:
        print(f"The configuration is good: {len(config.topics)} topics into {config.lake.uri}.")
        return ExitCode.OK
    return serve(config, nursery)


def prepare() -> Nursery:
    """Import all there is to import, then fork what workers are forked from."""
    # multiprocess then pickles with pickle: what we send are functions by name and plain values,
    # and each process is 2 MB smaller without dill.
    sys.modules["dill"] = None  # type: ignore[assignment]
    import supervisor.supervisor  # noqa: F401
    from supervisor.nursery import Nursery
    from supervisor.process_environment import settle

    settle(os.environ)
    return Nursery.fork()


def serve(config: Config, nursery: Nursery) -> int:
    """Start everything; bad luck with the port or the runtime folder is told like bad config."""
    from shared.errors import BlockError
    from shared.exit_codes import ExitCode
    from shared.logs import configure
    from supervisor.port import PortTaken, choose_port
    from supervisor.supervisor import Supervisor

    configure(config.log.level, config.log.format.value)
    try:
        port = choose_port(config.health.host, config.health.port)
        supervisor = Supervisor(config, port)
    except (PortTaken, BlockError) as error:
        print(f"{error}; {error.what_to_do}", file=sys.stderr)
        return ExitCode.CONFIG
    nursery.open()
    _leave(supervisor.run())


def _leave(code: int) -> NoReturn:
    """End at once: leaving by `sys.exit` would wait for a request that is not answered.

    What it decided, or not, the next start finds in the lake; any moment is safe.
    """
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
