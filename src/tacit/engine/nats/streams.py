"""The stream of a federation and the consumers of its members; only the coordinator makes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError
from nats.js.manager import JetStreamManager

from tacit.engine.nats.subjects import all_subjects, stream_name, subjects_to
from tacit.errors import TransportError
from tacit.types import PartyName

__all__ = ["StreamOptions", "prepare_stream"]

DAY_S = 86_400
MAX_DELIVER = 1000
MAX_ACK_PENDING = 1_024
API_TIMEOUT_S = 10.0
NO_STORAGE = 10_047
LEAST_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How the stream is kept.

    Attributes:
        replicas: 1, or 3 in a cluster.
        max_bytes: Bytes of all messages that wait; a full stream takes no new ones. Where the server
            has less to give, the half of it, and so on.
        max_age_s: Seconds after which a message that nobody fetched is gone.
        duplicate_window_s: Seconds in which a message of the same id is taken once.
        ack_wait_s: Seconds after which a message about which nothing is heard is delivered again.
    """

    replicas: int = 1
    max_bytes: int = 16 * 1024**3
    max_age_s: float = 7 * DAY_S
    duplicate_window_s: float = 600
    ack_wait_s: float = 30


async def prepare_stream(
    client: Client,
    federation: str,
    members: Iterable[PartyName],
    options: StreamOptions | None = None,
) -> None:
    """Makes the stream and the consumers, or brings them to what they should be; repeating is safe.

    Args:
        client: The coordinator's connection.
        federation: ``slug`` of the federation's name.
        members: Everybody who receives; consumers of others are deleted.
        options: How the stream is kept.

    Raises:
        TransportError: The server refuses, or has no JetStream.
    """
    chosen, name = options or StreamOptions(), stream_name(federation)
    manager = client.jetstream(timeout=API_TIMEOUT_S)
    try:
        await _prepare(manager, _stream(federation, chosen))
        wanted = set(members)
        for consumer in await manager.consumers_info(name):
            if consumer.name not in wanted:
                await manager.delete_consumer(name, consumer.name)
        for member in sorted(wanted):
            await manager.add_consumer(name, _consumer(federation, member, chosen))
    except (Error, OSError) as error:
        raise TransportError(
            "nats.stream",
            f"stream {name} cannot be made or updated: {error}",
            remedy="check that the server has JetStream and space, and that this member may manage it",
        ) from error


async def _prepare(manager: JetStreamManager, config: StreamConfig) -> None:
    """Makes or updates the stream, as large as the server permits."""
    try:
        await manager.stream_info(str(config.name))
        change = manager.update_stream
    except NotFoundError:
        change = manager.add_stream
    while True:
        try:
            await change(config)
        except APIError as error:
            half = (config.max_bytes or 0) // 2
            if error.err_code != NO_STORAGE or half < LEAST_BYTES:
                raise
            config = config.evolve(max_bytes=half)
        else:
            return


def _stream(federation: str, options: StreamOptions) -> StreamConfig:
    return StreamConfig(
        name=stream_name(federation),
        subjects=[all_subjects(federation)],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_bytes=options.max_bytes,
        max_age=options.max_age_s,
        duplicate_window=options.duplicate_window_s,
        num_replicas=options.replicas,
    )


def _consumer(federation: str, member: PartyName, options: StreamOptions) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=member,
        filter_subject=subjects_to(federation, member),
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=options.ack_wait_s,
        max_deliver=MAX_DELIVER,
        max_ack_pending=MAX_ACK_PENDING,
        num_replicas=options.replicas,
    )
