"""``tacit witness``: runs an independent witness until it is told to stop."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tacit.engine.witness import Observation, WitnessServer, open_witness
from tacit.errors import ConfigError

__all__ = ["run"]


def run(
    folder: Path, rosters: Sequence[Path], *, name: str | None, listen: str, as_json: bool
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        folder: Where the witness keeps its key and its memory; made if need be.
        rosters: The ``federation.toml`` of every federation whose logs it witnesses.
        name: Its name in cosignatures; by default that of the folder.
        listen: ``HOST:PORT``.
        as_json: Whether to print one JSON object a line.

    Raises:
        ConfigError: Names file or option and remedy.
        SignatureError: A roster is not signed by all its operators.
    """
    address = _address(listen)
    own_name = name if name is not None else folder.resolve().name
    service = open_witness(folder, rosters, own_name, lambda seen: _tell(seen, as_json))
    server = WitnessServer(service, address)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    thread = threading.Thread(target=server.serve_forever, name="witness")
    thread.start()
    host, port = server.server_address[:2]
    shown = f"[{host!s}]" if ":" in str(host) else str(host)
    url = f"http://{shown}:{port}"
    if as_json:
        _say(json.dumps({**service.describe(), "url": url}))
    else:
        _say(f"witness {service.name} listens on {url}")
        _say(f"key, for trust.json and witnesses.toml: {service.public_key.hex()}")
        _say(f"verifier key, for other tools: {service.describe()['verifier_key']}")
    stopped.wait()
    server.shutdown()
    thread.join()
    server.server_close()
    service.close()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]  # An IPv6 address.
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            "witness.listen",
            f"'{listen}' is not an address to listen on",
            remedy="pass --listen HOST:PORT, for example 127.0.0.1:7878",
        )
    return host, int(port)


def _tell(seen: Observation, as_json: bool) -> None:
    if as_json:
        _say(json.dumps(asdict(seen)))
    elif seen.code:
        _say(f"REFUSED {seen.log} at size {seen.size}: {seen.code} (known at {seen.known})")
    else:
        _say(f"cosigned {seen.log} at size {seen.size}")


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # Whoever read along has gone; the witness goes on.
        print(line, flush=True)
