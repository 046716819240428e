"""``service.toml``: how a long-lived process is run; every role has one, and every key has a default."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from tacit.config import Table, load_toml
from tacit.errors import ConfigError, TransportError
from tacit.files import hold

__all__ = ["SERVICE_FILE", "ServiceConfig", "ServiceFile", "only_process", "parse_address"]

SERVICE_FILE = "service.toml"
LOCK = Path("state") / "service.lock"
PARENTS = 2
"""So many folders above a party's own are searched for the files of its federation."""


class LogTable(Table):
    """`[log]`: what the process writes on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe events that are written, as JSON lines."
    )


class LimitsTable(Table):
    """`[limits]`: what one process takes on."""

    runs: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Coordinator: runs that go on at once; further ones wait for their turn.",
    )
    waiting: int = Field(
        default=64,
        ge=0,
        le=10_000,
        description="Coordinator: runs that may wait; a submission beyond that is refused.",
    )
    stop_seconds: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a process has to finish what is in hand once it is told to stop; then "
        "training is broken off.",
    )
    replicas: Literal[1, 3] = Field(
        default=1,
        description="Coordinator: servers of a NATS cluster that keep every message on its way.",
    )
    stream_gib: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="Coordinator: GiB that all messages on their way may take on the NATS server.",
    )


class TrainingTable(Table):
    """`[training]`: what one training child of a site may use."""

    seconds: float = Field(
        default=3600.0,
        gt=0,
        le=30 * 86_400,
        description="Site: seconds for one round's training, or to load a model.",
    )
    memory_mib: int = Field(
        default=0,
        ge=0,
        le=2**30,
        description="Site: MiB of address space; 0 for no limit. PyTorch alone reserves several GiB.",
    )
    niceness: int = Field(
        default=5, ge=0, le=19, description="Site: how much training leaves to other processes."
    )


class ServiceFile(Table):
    """`service.toml`: how a long-lived process is run; every key may be left out."""

    version: Literal[1] = Field(default=1, description="Version of the file format.")
    federation: str | None = Field(
        default=None,
        min_length=1,
        description="Path of `federation.toml`, relative to this file; by default the first one in "
        "this folder or the two above it.",
    )
    network: str | None = Field(
        default=None,
        min_length=1,
        description="Path of `network.toml`, in the same way.",
    )
    listen: str = Field(
        default="",
        max_length=256,
        description="`HOST:PORT` for `/healthz`, `/readyz` and `/metrics`, for example "
        "`127.0.0.1:7979`; port 0 takes a free one, which the log names. Off when empty.",
    )
    log: LogTable = LogTable()
    limits: LimitsTable = LimitsTable()
    training: TrainingTable = TrainingTable()


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """A party's folder, its ``service.toml``, and where its federation's files lie."""

    folder: Path
    file: ServiceFile
    federation: Path
    network: Path

    @classmethod
    def load(
        cls, folder: Path, *, federation: Path | None = None, network: Path | None = None
    ) -> ServiceConfig:
        """Reads ``service.toml`` of a party's folder, if there is one, and finds the other files.

        Args:
            folder: The party's own folder.
            federation: ``federation.toml``, whatever ``service.toml`` says.
            network: ``network.toml``, in the same way.

        Raises:
            ConfigError: The folder or a file is missing, or a key is wrong.
        """
        if not folder.is_dir():
            raise ConfigError(
                "service.folder",
                f"there is no folder {folder}",
                remedy="pass the party's own folder, the one that holds keys/identity.key",
                file=str(folder),
            )
        path = folder / SERVICE_FILE
        file = load_toml(path, ServiceFile) if path.exists() else ServiceFile()
        parse_address(file.listen, path)
        return cls(
            folder=folder,
            file=file,
            federation=_find(folder, "federation.toml", file.federation, federation),
            network=_find(folder, "network.toml", file.network, network),
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Where health is served; None when it is not."""
        return parse_address(self.file.listen, self.folder / SERVICE_FILE)


def _find(folder: Path, name: str, named: str | None, given: Path | None) -> Path:
    """A file of the federation: given, named in ``service.toml``, or the nearest one."""
    own = folder.resolve()
    places = [own, *list(own.parents)[:PARENTS]]
    candidates = [place / name for place in places]
    if given is not None:
        candidates = [given]
    elif named is not None:
        candidates = [folder / named]
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError(
        "service.file",
        f"there is no {name} for {folder}: looked for {', '.join(map(str, candidates))}",
        remedy=f"put {name} beside the party's folder, or name it in {folder}/{SERVICE_FILE}",
        file=str(candidates[0]),
    )


def parse_address(text: str, file: Path) -> tuple[str, int] | None:
    """``HOST:PORT``, an IPv6 host in brackets; None for an empty text.

    Args:
        text: The address.
        file: Named in the error.

    Raises:
        ConfigError: Neither.
    """
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            "service.listen",
            f"{file}: key 'listen': '{text}' is not an address to listen on",
            remedy="write HOST:PORT, for example 127.0.0.1:7979, or leave 'listen' out",
            file=str(file),
            key="listen",
        )
    return host, int(port)


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds a party's folder for this process, until the block ends or the process dies.

    Args:
        folder: The party's own folder.

    Raises:
        ConfigError: Another process serves it.
        TransportError: The lock file cannot be made.

    Guarantee: Two processes never serve one folder on one machine, and a lock never outlives its
    process (tests/unit/test_service_config.py::test_a_folder_is_served_by_one_process).
    """
    path = folder / LOCK
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(hold(path))
        except BlockingIOError as error:
            raise ConfigError(
                "service.taken",
                f"another process serves {folder}",
                remedy="stop it first; one folder has one process",
                file=str(folder),
            ) from error
        except OSError as error:
            raise TransportError(
                "service.lock",
                f"cannot hold {path}: {error.strerror}",
                remedy="check the folder's permissions and free space, and that its file system "
                "knows locks; then try again",
                file=str(path),
            ) from error
        yield
