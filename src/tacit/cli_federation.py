"""The part of the command line that puts federations together: ``tacit federation`` and ``tacit up``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit.service.enrol import Enrolment
    from tacit.trust.roster import Roster

__all__ = ["add_federation"]

Command = Callable[..., argparse.ArgumentParser]
UNITS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def add_federation(commands: Any, command: Command) -> None:
    """Adds ``tacit federation`` and ``tacit up``.

    Args:
        commands: The sub-parsers of the command line.
        command: Adds one command: sub-parsers, name, function, help.
    """
    text = "put a federation together: keys, invitations, roster, server"
    federation = command(commands, "federation", _show, text)
    federation.set_defaults(coordinator=Path("coordinator"))
    inner = federation.add_subparsers(title="commands (default: roster show)", metavar="[COMMAND]")
    _add_init(inner, command)
    _add_members(inner, command)
    _add_roster(inner, command)
    _add_up(commands, command)


def _add_init(inner: Any, command: Command) -> None:
    init = command(
        inner, "init", _init, "make the coordinator, its keys and its server's", inner=True
    )
    init.add_argument("folder", type=Path, help="folder to make the federation in")
    init.add_argument("--name", required=True, help="name of the federation")
    init.add_argument(
        "--host",
        action="append",
        required=True,
        metavar="HOST",
        help="name or address that members reach the NATS server by; may be repeated",
    )
    init.add_argument("--port", type=_port, default=4222, help="port of the server (default: 4222)")
    init.add_argument(
        "--operator", default="coordinator", help="who operates it (default: coordinator)"
    )
    init.add_argument(
        "--region", default="unspecified", help="where it runs (default: unspecified)"
    )
    init.add_argument(
        "--plaintext", action="store_true", help="without TLS, on 127.0.0.1 only, to try it out"
    )
    renew = command(
        inner, "certificate", _certificate, "give the server a new certificate", inner=True
    )
    renew.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="HOST",
        help="other names or addresses than before; may be repeated",
    )
    _add_coordinator(renew)


def _add_members(inner: Any, command: Command) -> None:
    invite = command(inner, "invite", _invite, "write an invitation: NAME.invite", inner=True)
    invite.add_argument("name", metavar="NAME", help="the newcomer's name in the roster")
    invite.add_argument(
        "--role",
        action="append",
        choices=("client", "helper"),
        help="what it may act as; may be repeated (default: client and helper)",
    )
    invite.add_argument("--operator", default="", help="who must operate it (default: open)")
    invite.add_argument(
        "--valid",
        type=_duration,
        default=7 * UNITS["d"],
        metavar="TIME",
        help="how long it may be answered, for example 12h or 7d (default: 7d)",
    )
    _add_coordinator(invite)
    join = command(
        inner, "join", _join, "answer an invitation: folder, keys, NAME.request", inner=True
    )
    join.add_argument("invitation", type=Path, help="the .invite file")
    join.add_argument("folder", type=Path, nargs="?", help="folder to make (default: the name)")
    join.add_argument("--region", required=True, help="where data and training stay")
    join.add_argument("--operator", default="", help="who operates it (default: as invited)")
    install = command(
        inner, "install", _install, "check what came back, and put it in place", inner=True
    )
    install.add_argument("federation", type=Path, help="the signed federation.toml")
    install.add_argument("network", type=Path, help="its network.toml")
    install.add_argument(
        "--in", dest="folder", type=Path, required=True, metavar="DIR", help="the member's folder"
    )
    install.add_argument(
        "--accept-servers",
        action="store_true",
        help="take other servers or another authority than the invitation named",
    )


def _add_roster(inner: Any, command: Command) -> None:
    text = "who is in the federation, and everybody's signature for it"
    roster = command(inner, "roster", _show, text, inner=True)
    parts = roster.add_subparsers(title="commands (default: show)", metavar="[COMMAND]")
    show = command(parts, "show", _show, "show members with fingerprints", inner=True)
    _add_coordinator(show)
    add = command(parts, "add", _add, "take a newcomer's request into the draft", inner=True)
    add.add_argument("request", type=Path, help="the .request file")
    _add_coordinator(add)
    remove = command(parts, "remove", _remove, "take a member out of the draft", inner=True)
    remove.add_argument("name", metavar="NAME", help="the member")
    _add_coordinator(remove)
    propose = command(
        parts, "propose", _propose, "write the roster that all are to sign", inner=True
    )
    _add_coordinator(propose)
    sign = command(parts, "sign", _sign, "review a proposed roster and sign it", inner=True)
    sign.add_argument("proposal", type=Path, help="the .proposal file")
    sign.add_argument(
        "--as", dest="folder", type=Path, required=True, metavar="DIR", help="the member's folder"
    )
    sign.add_argument("--yes", action="store_true", help="sign without asking")
    finish = command(
        parts, "finish", _finish, "write federation.toml, network.toml and the server's", inner=True
    )
    finish.add_argument("signatures", type=Path, nargs="*", help="the .signature files of all")
    _add_coordinator(finish)


def _add_up(commands: Any, command: Command) -> None:
    up = command(
        commands, "up", _up, "run a job with a server and a process per party, on this machine"
    )
    up.add_argument(
        "job", type=Path, nargs="?", default=Path("job.toml"), help="job file (default: job.toml)"
    )
    up.add_argument(
        "--keep", action="store_true", help="leave everything running after the job, until Ctrl-C"
    )


def _add_coordinator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--coordinator",
        type=Path,
        default=Path("coordinator"),
        metavar="DIR",
        help="the coordinator's folder (default: coordinator)",
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(text)
    return port


_port.__name__ = "port"


def _duration(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * UNITS[found[2]]


_duration.__name__ = "time such as 30m, 12h or 7d"


def _enrolment(options: argparse.Namespace) -> Enrolment:
    from tacit.service.enrol import Enrolment  # noqa: PLC0415

    return Enrolment(options.coordinator)


def _tell(options: argparse.Namespace, record: dict[str, Any], *lines: str) -> int:
    """Prints one JSON object, or lines for people."""
    if options.json:
        print(json.dumps(record, indent=2))
    else:
        for line in lines:
            print("".join(c if c.isprintable() else "\ufffd" for c in line))
    return 0


def _init(options: argparse.Namespace) -> int:
    from tacit.service.enrol import Enrolment, Setup  # noqa: PLC0415
    from tacit.service.invitation import fingerprint  # noqa: PLC0415

    setup = Setup(
        name=options.name,
        hosts=tuple(options.host),
        port=options.port,
        operator=options.operator,
        region=options.region,
        plaintext=options.plaintext,
    )
    made = Enrolment.init(options.folder, setup)
    key, base = made.identity.public_key, options.folder
    go = "" if base == Path() else f"cd {base}; "
    return _tell(
        options,
        {"folder": str(options.folder), "key": key.hex(), "fingerprint": fingerprint(key)},
        f"wrote {base / 'coordinator'} and {base / 'nats'}; back up both: they hold keys",
        f"the coordinator's fingerprint, to read out by telephone: {fingerprint(key)}",
        f"next: {go}tacit federation invite NAME, for every member",
    )


def _certificate(options: argparse.Namespace) -> int:
    end = _enrolment(options).renew(options.host)
    day = end.date().isoformat()
    return _tell(
        options,
        {"until": day},
        f"wrote the server's certificate; it ends on {day}",
        "next: nats-server --signal reload",
    )


def _invite(options: argparse.Namespace) -> int:
    from tacit.service.invitation import fingerprint, write_paper  # noqa: PLC0415

    roles = tuple(options.role or ("client", "helper"))
    made = _enrolment(options).invite(
        options.name, roles=roles, operator=options.operator, valid=options.valid
    )
    path = Path(f"{made.name}.invite")
    write_paper(path, made, private=True)
    shown = fingerprint(bytes.fromhex(made.leader_key))
    day = datetime.fromtimestamp(made.expires / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return _tell(
        options,
        {"file": str(path), "id": made.id, "expires": made.expires, "fingerprint": shown},
        f"wrote {path}; it may be answered until {day}",
        f"send it to the operator of {made.name}; our fingerprint, by telephone: {shown}",
    )


def _join(options: argparse.Namespace) -> int:
    from tacit.service.invitation import fingerprint  # noqa: PLC0415
    from tacit.service.join import join  # noqa: PLC0415

    request, invitation, path = join(
        options.invitation, options.folder, region=options.region, operator=options.operator
    )
    own = fingerprint(bytes.fromhex(request.key))
    theirs = fingerprint(bytes.fromhex(invitation.leader_key))
    folder = options.folder or Path(request.name)
    return _tell(
        options,
        {
            "folder": str(folder),
            "request": str(path),
            "key": request.key,
            "fingerprint": own,
            "coordinator": theirs,
        },
        f"wrote {folder}, with keys that stay there, and {path.name}",
        f"send {path.name} to the coordinator's operator, and call them:",
        f"  our fingerprint   {own}",
        f"  the coordinator's {theirs}",
        f"next: {folder}/README.md",
    )


def _add(options: argparse.Namespace) -> int:
    from tacit.service.invitation import fingerprint  # noqa: PLC0415

    request = _enrolment(options).add(options.request)
    shown = fingerprint(bytes.fromhex(request.key))
    return _tell(
        options,
        {"name": request.name, "key": request.key, "fingerprint": shown},
        f"{request.name} ({request.operator}, {request.region}) is in the draft",
        f"compare by telephone: {shown}",
        "next: tacit federation roster propose, once all are there",
    )


def _remove(options: argparse.Namespace) -> int:
    _enrolment(options).remove(options.name)
    return _tell(
        options,
        {"removed": options.name},
        f"{options.name} is out of the draft; the others must sign the new roster",
        "next: tacit federation roster propose",
    )


def _show(options: argparse.Namespace) -> int:
    roster = _enrolment(options).draft.roster
    if options.json:
        print(json.dumps(_record(roster), indent=2))
    else:
        _print_roster(roster)
    return 0


def _record(roster: Roster) -> dict[str, Any]:
    from tacit.service.invitation import fingerprint  # noqa: PLC0415

    return {
        "federation": roster.federation,
        "digest": roster.digest.hex(),
        "members": [
            {
                "name": member.name,
                "operator": member.operator,
                "region": member.region,
                "roles": list(member.roles),
                "key": member.key.hex(),
                "fingerprint": fingerprint(member.key),
            }
            for member in roster.members
        ],
    }


def _print_roster(roster: Roster, *, error: bool = False) -> None:
    from tacit.service.invitation import fingerprint  # noqa: PLC0415
    from tacit.show import console, table  # noqa: PLC0415

    rows = [
        (
            member.name,
            member.operator,
            member.region,
            ", ".join(member.roles),
            fingerprint(member.key),
        )
        for member in roster.members
    ]
    columns = ("member", "operator", "region", "roles", "fingerprint")
    out = console(error=error)
    out.print(table(f"{roster.federation}, roster {roster.digest.hex()[:16]}", columns, rows))


def _propose(options: argparse.Namespace) -> int:
    path = _enrolment(options).propose()
    return _tell(
        options,
        {"file": str(path)},
        f"wrote {path.name}; send it to every member",
        f"there: tacit federation roster sign {path.name} --as DIR",
    )


def _sign(options: argparse.Namespace) -> int:
    from tacit.service.join import sign  # noqa: PLC0415

    def confirm(roster: Roster, name: str) -> bool:
        if not options.json:
            _print_roster(roster)
        if options.yes:
            return True
        print(f"sign this roster as {name}? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    path = sign(options.proposal, options.folder, confirm)
    return _tell(
        options, {"file": str(path)}, f"wrote {path}; send it to the coordinator's operator"
    )


def _finish(options: argparse.Namespace) -> int:
    federation, network, config = _enrolment(options).finish(options.signatures)
    return _tell(
        options,
        {"federation": str(federation), "network": str(network), "server": str(config)},
        f"wrote {federation.name}, {network.name} and nats/{config.name}: all have signed",
        f"send {federation.name} and {network.name} to every member; there:",
        f"  tacit federation install {federation.name} {network.name} --in DIR",
        f"next here: nats-server -c {config}, or nats-server --signal reload where it runs",
    )


def _install(options: argparse.Namespace) -> int:
    from tacit.service.enrol import own_entry  # noqa: PLC0415
    from tacit.service.join import install  # noqa: PLC0415

    roster, network = install(
        options.federation,
        options.network,
        options.folder,
        accept_servers=options.accept_servers,
    )
    own = own_entry(options.folder, roster)
    service = "site" if "client" in own.roles else "helper"
    return _tell(
        options,
        {**_record(roster), "party": own.name, "servers": list(network.servers)},
        f"{own.name} is a member of {roster.federation}: all {len(roster.members)} have signed",
        f"next: tacit {service} {options.folder}",
    )


def _up(options: argparse.Namespace) -> int:
    from tacit.service.up import up  # noqa: PLC0415

    return up(options.job, keep=options.keep, as_json=options.json)
