"""The part of the command line that leads runs on a federation: coordinator, submit, status, logs, cancel."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["add_service"]

FAILED, INTERRUPTED = 1, 130
Command = Callable[..., argparse.ArgumentParser]


def add_service(commands: Any, command: Command) -> None:
    """Adds the commands.

    Args:
        commands: The sub-parsers of the command line.
        command: Adds one command: sub-parsers, name, function, help.
    """
    serve = command(commands, "coordinator", _coordinator, "lead a federation's runs, over NATS")
    serve.add_argument("folder", type=Path, help="the coordinator's folder, with its keys")
    for name in ("federation", "network"):
        serve.add_argument(
            f"--{name}",
            type=Path,
            metavar="FILE",
            help=f"{name}.toml (default: in the folder, or up to two above it)",
        )

    submit = command(commands, "submit", _submit, "hand a job to the coordinator")
    submit.add_argument(
        "job", type=Path, nargs="?", default=Path("job.toml"), help="job file (default: job.toml)"
    )
    _add_coordinator(submit)
    submit.add_argument(
        "--clients",
        nargs="+",
        default=[],
        metavar="NAME",
        help="roster names of the sites that train (default: every client of the roster)",
    )
    submit.add_argument("--wait", action="store_true", help="wait for its end, showing progress")

    status = command(commands, "status", _status, "show the coordinator's runs, or one of them")
    status.add_argument("run", nargs="?", metavar="RUN", help="run id, or its first digits")
    _add_coordinator(status)
    status.add_argument("--watch", action="store_true", help="go on until the run has ended")

    logs = command(commands, "logs", _logs, "print the log of a run")
    logs.add_argument("run", metavar="RUN", help="run id, or its first digits")
    _add_coordinator(logs)
    logs.add_argument("--follow", action="store_true", help="go on until the run has ended")

    cancel = command(commands, "cancel", _cancel, "end a run early, in order")
    cancel.add_argument("run", metavar="RUN", help="run id, or its first digits")
    _add_coordinator(cancel)


def _add_coordinator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--coordinator",
        type=Path,
        default=Path("coordinator"),
        metavar="DIR",
        help="the coordinator's folder on this machine (default: coordinator)",
    )


def _coordinator(options: argparse.Namespace) -> int:
    from tacit.service.coordinator import serve  # noqa: PLC0415

    def tell(where: dict[str, str]) -> None:
        if options.json:
            _say(json.dumps(where))
        else:
            _say(f"the coordinator is ready; commands go to {where['control']}")
            if where["health"]:
                _say(f"health: {where['health']}/healthz")

    return serve(
        options.folder, federation=options.federation, network=options.network, on_ready=tell
    )


def _submit(options: argparse.Namespace) -> int:
    from tacit.service.control import Control  # noqa: PLC0415
    from tacit.service.watch import wait  # noqa: PLC0415

    control = Control(options.coordinator)
    told = control.submit(options.job, options.clients)
    if not options.wait:
        _say(json.dumps(told, indent=2) if options.json else f"run {told['run'][:12]} is submitted")
        return 0
    if not options.json:
        sys.stderr.write(f"run {told['run'][:12]} is submitted\n")
    return _ended(wait(control, told["run"], quiet=options.json), as_json=options.json)


def _ended(told: dict[str, Any], *, as_json: bool) -> int:
    """Prints the result of a run as ``tacit run`` does; the exit code."""
    from tacit.outcome import Outcome  # noqa: PLC0415
    from tacit.service.state import failure_of  # noqa: PLC0415
    from tacit.show import show_error, show_run  # noqa: PLC0415

    failure = failure_of(told)
    if told["status"] == "failed":
        if as_json:
            _say(json.dumps(told["failure"], indent=2))
        elif failure is not None:
            show_error(failure)
    else:
        outcome = Outcome.read(Path(told["folder"]))
        if as_json:
            _say(json.dumps(outcome.record(), indent=2))
        else:
            show_run(outcome)
            if failure is not None:
                show_error(failure)
    if told["status"] == "complete":
        return 0
    stopped = failure is not None and failure.code == "run.interrupted"
    return INTERRUPTED if stopped else FAILED


def _status(options: argparse.Namespace) -> int:
    from tacit.service.control import Control  # noqa: PLC0415
    from tacit.service.watch import show_state, show_states, wait  # noqa: PLC0415

    control = Control(options.coordinator)
    if options.run is None:
        runs = control.runs()
        if options.json:
            _say(json.dumps({"runs": runs}, indent=2))
        else:
            show_states(runs)
        return 0
    told = control.run(options.run)
    if options.watch:
        told = wait(control, told["run"], quiet=options.json)
    if options.json:
        _say(json.dumps(told, indent=2))
    else:
        show_state(told)
    return 0


def _logs(options: argparse.Namespace) -> int:
    from tacit.service.control import Control  # noqa: PLC0415
    from tacit.service.watch import follow, log_line  # noqa: PLC0415

    control = Control(options.coordinator)
    for record in follow(control, options.run, forever=options.follow):
        _say(json.dumps(record) if options.json else log_line(record))
    return 0


def _cancel(options: argparse.Namespace) -> int:
    from tacit.service.control import Control  # noqa: PLC0415

    told = Control(options.coordinator).cancel(options.run)
    _say(json.dumps(told, indent=2) if options.json else f"run {told['run'][:12]} ends")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
