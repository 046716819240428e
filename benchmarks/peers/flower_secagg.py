"""One round of Flower's SecAgg+, timed through Flower's own functions.

Runs in an environment of its own that holds ``flwr`` and not Tacit; ``flower.py`` beside it makes that
environment and starts this file. Every client of every phase runs Flower's ``secaggplus_mod`` and the
server runs the stages of Flower's ``SecAggPlusWorkflow``, all in this process: nothing is replayed,
and the mean that comes out is compared with the true one. Not counted, in Flower's favour: network,
serialisation of messages, training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import flwr
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import (
    RECORD_KEY_CONFIGS,
    Key,
    Stage,
)
from flwr.compat.common import recorddict_compat
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import (
    SecAggPlusWorkflow,
    WorkflowState,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

EXAMPLES = 100
PHASES = ("setup", "share_keys", "collect_masked_vectors", "unmask")


def bytes_of(message: Message) -> int:
    """Bytes of a message and everything in it, as Flower would push them."""
    return sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


class Span(NamedTuple):
    """Seconds of CPU time and of wall time."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Any) -> Span:
        return Span(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Any) -> Span:
        return Span(self.cpu - other.cpu, self.wall - other.wall)


def now() -> Span:
    """Both clocks."""
    return Span(time.process_time(), time.perf_counter())


def costs(
    clients: dict[str, dict[int, Span]], server: dict[str, Span], clock: str
) -> dict[str, Any]:
    """The median client and the server by phase, on one of the clocks."""
    client_s = {
        stage: statistics.median(getattr(span, clock) for span in spans.values())
        for stage, spans in clients.items()
    }
    server_s = {phase: getattr(span, clock) for phase, span in server.items()}
    return {
        f"client_{clock}_s": client_s,
        f"client_total_{clock}_s": sum(client_s.values()),
        f"server_{clock}_s": server_s,
        f"server_total_{clock}_s": sum(server_s.values()),
    }


class Clients:
    """All clients, in the place of Flower's ``Grid``; keeps what each of them cost."""

    def __init__(self, vectors: dict[int, np.ndarray], dropped: set[int]) -> None:
        self.vectors = vectors
        self.dropped = dropped
        self.contexts = {
            node: Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in vectors
        }
        self.spans: dict[str, dict[int, Span]] = {}
        self.bytes_up: dict[str, int] = {}
        self.inside = Span()
        self.sent = 0

    def train(self, message: Message, context: Context) -> Message:
        """The client's app: its update is ready, training is not what is measured."""
        vector = self.vectors[context.node_id]
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([vector]), EXAMPLES, {})
        return Message(recorddict_compat.fitres_to_recorddict(result, False), reply_to=message)

    def send_and_receive(self, messages: Any, timeout: float | None = None) -> list[Message]:
        """Every client's answer, one client after the other."""
        start = now()
        answers = [answer for message in messages if (answer := self._serve(message)) is not None]
        self.inside += now() - start
        return answers

    def _serve(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        configs = message.content.config_records[RECORD_KEY_CONFIGS]
        stage = str(configs[Key.STAGE])
        if stage == Stage.COLLECT_MASKED_VECTORS and node in self.dropped:
            return None
        # Over a network every client has a copy of its own, from which it takes the stage out.
        content = RecordDict(dict(message.content.items()))
        content[RECORD_KEY_CONFIGS] = ConfigRecord(dict(configs))
        received = Message(
            content,
            dst_node_id=node,
            message_type=message.metadata.message_type,
            group_id=message.metadata.group_id,
        )
        self.sent += 1
        received.metadata.__dict__["_message_id"] = str(self.sent)
        received.metadata.__dict__["_src_node_id"] = 0
        start = now()
        answer = secaggplus_mod(received, self.contexts[node], self.train)
        taken = now() - start
        spans = self.spans.setdefault(stage, {})
        spans[node] = taken
        if stage not in self.bytes_up:
            self.bytes_up[stage] = bytes_of(answer)
        if len(spans) % 10 == 0:
            print(f"flower: {stage}: {len(spans)} clients done", file=sys.stderr)
        return answer


class Proxy:
    """Stands for a client in the results that the workflow hands to its strategy."""

    def __init__(self, node: int) -> None:
        self.node_id = node


class Keep:
    """A strategy that keeps the mean which the workflow computed."""

    def __init__(self, nodes: list[int]) -> None:
        self.nodes = nodes
        self.mean: np.ndarray | None = None

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """Every client takes part."""
        return [(Proxy(node), FitIns(parameters, {})) for node in self.nodes]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Keeps the mean; no further step."""
        self.mean = parameters_to_ndarrays(results[0][1].parameters)[0]
        return None, {}


class Manager:
    """No client is to be waited for."""

    def num_available(self) -> int:
        """Of those that the strategy does not name."""
        return 0


def server_context(strategy: Keep) -> LegacyContext:
    """What the workflow reads: the round, and a model that costs nothing to send."""
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    legacy: Any = LegacyContext(context, None, strategy, Manager())  # type: ignore[arg-type]
    legacy.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    model = ndarrays_to_parameters([np.zeros(1, np.float32)])
    legacy.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
        model, True
    )
    return legacy


def one_round(clients: int, dimension: int, drop: float) -> dict[str, Any]:
    """Runs and times one round with Flower's defaults: complete graph, threshold 2/3 of it."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    generator = np.random.default_rng(7)
    nodes = [int(node) for node in generator.integers(1, 2**62, clients)]
    vectors = {n: generator.standard_normal(dimension, dtype=np.float32) * 0.05 for n in nodes}
    dropped = set(nodes[: round(clients * drop)])
    grid, strategy, state = Clients(vectors, dropped), Keep(nodes), WorkflowState()
    context = server_context(strategy)
    workflow = SecAggPlusWorkflow(
        num_shares=1.0, reconstruction_threshold=2 / 3, max_weight=10.0 * EXAMPLES
    )
    server: dict[str, Span] = {}
    for phase in PHASES:
        grid.inside = Span()
        start = now()
        if not getattr(workflow, f"{phase}_stage")(grid, context, state):
            raise SystemExit(f"flower: the phase {phase} failed")
        server[phase] = now() - start - grid.inside
    kept = [vector for node, vector in vectors.items() if node not in dropped]
    error = float(np.abs(strategy.mean - np.mean(kept, axis=0)).max())
    if not error < 0.01:
        raise SystemExit(f"flower: the mean is off by {error}: the round was not driven rightly")
    plain = RecordDict({"arrays": ArrayRecord([vectors[nodes[0]]])})
    return {
        "flwr": flwr.__version__,
        "clients": clients,
        "dimension": dimension,
        "dropped": len(dropped),
        "shares": state.num_shares,
        "threshold": state.threshold,
        **costs(grid.spans, server, "cpu"),
        **costs(grid.spans, server, "wall"),
        "bytes_up": grid.bytes_up,
        "bytes_up_total": sum(grid.bytes_up.values()),
        "bytes_up_plain": bytes_of(Message(plain, dst_node_id=1, message_type="train")),
        "largest_error": error,
    }


def main() -> None:
    """Writes the cost of one round as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--dimension", type=int, required=True)
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    result = one_round(options.clients, options.dimension, options.drop)
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
