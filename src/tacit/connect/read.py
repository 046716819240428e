"""The only way from a source to training: permission, plan, sanitised batches, receipts."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from tacit.connect.anonymity import Gate
from tacit.connect.batch import SanitisedBatch, build_batch
from tacit.connect.cells import BadCell
from tacit.connect.keys import KEY_BYTES, DataKeys
from tacit.connect.parse import stored_type_fits
from tacit.connect.plan import Plan
from tacit.connect.receipt import FIRST, ColumnReceipt, Quarantined, Receipt, Rows
from tacit.connect.residual import ALL, scan
from tacit.connect.rows import stored_expression
from tacit.connect.sanitise import Sanitised, Sanitiser, column_keys, matrix
from tacit.connect.sources import Piece, Source, open_source, read_secret
from tacit.connect.sources.checks import attempt
from tacit.errors import ConfigError, LocalProtocolError
from tacit.policy.contract import Contract
from tacit.policy.permission import NO_POLICY, Permission, build_permission
from tacit.types import Digest, Milliseconds

__all__ = ["Inspection", "Reading", "inspect", "read"]

MAX_LISTED = 100_000
"""Set-aside rows that are listed one by one; further ones are only counted."""

MAX_ATTEMPTS = 1_000
"""Times that one batch is tried again without the rows that broke the contract."""

SCANNED: dict[str, tuple[str, ...]] = {"mask": ALL, "prefix": ALL, "ff1": ()}
"""Methods whose result holds characters of the source, with the detectors that scan it. What FF1 makes
looks like what it encrypted, by design: it is scanned for canaries only. A ZIP3 is three digits."""

USED = ("active", "deprecated")

Numbers = range | npt.NDArray[np.int64]
"""Data rows of a batch, 1-based; a range until some are left out."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a reading would do, for the site's operator; holds no data.

    Args:
        rows: Row counts.
        quarantined: The rows that would be set aside, at most ``MAX_LISTED`` of them.
    """

    rows: Rows
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One batch, sanitised: how many rows the policy permits, what is left of them, residual hits."""

    rows: int
    made: Sanitised | None
    hits: Counter[str]

    @property
    def gated(self) -> pa.RecordBatch | None:
        return None if self.made is None else self.made.gated


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A batch that waits for its digest."""

    part: _Part
    digest: Future[Digest]


@dataclass(slots=True)
class Reading:
    """One pass over a data set in bounded memory: iterate for its sanitised batches.

    Args:
        contract: What every column is.
        base: Folder that the source's path is relative to; ``base/keys`` holds its login.
        permission: The policy's yes to this contract.
        keys: Where keys of tokens come from; needed when a column has a keyed method.
        at: Decides on the period of keys; by default the time of the permission.

    Attributes:
        receipts: One for each batch so far, linked by digests.
        quarantined: Rows set aside so far; at most ``MAX_LISTED`` of them.
        residual: Whether the residual scan set a batch aside.
    """

    contract: Contract
    base: Path
    permission: Permission
    keys: DataKeys | None = None
    at: Milliseconds | None = None
    receipts: list[Receipt] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    _begun: bool = field(default=False, init=False, repr=False)
    _ended: bool = field(default=False, init=False, repr=False)

    def __iter__(self) -> Iterator[SanitisedBatch]:
        """Yields batches in the order of the source; a batch with a residual hit is not yielded.

        Raises:
            ConfigError: Names file, data row and column: undeclared or missing column, wrong type,
                unparsable row, or a cell that the contract does not allow and does not set aside.
            LocalProtocolError: The permission is for another contract, or the reading has begun before.
            TransportError: A database or an object store broke off.
        """
        schema = self.contract.schema()
        for made, receipt in self._results():
            content = (matrix([made]), made.labels, made.entities)
            extra = pa.Table.from_batches([made.extra])
            yield build_batch(content, schema, extra, receipt, (receipt,))

    def collect(self) -> SanitisedBatch:
        """Reads everything into one batch, and nothing at all if something breaks the contract.

        Raises:
            ConfigError: As in iterating; also no records, or a result that the residual scan objects to.
        """
        results = [made for made, _ in self._results()]
        if self.residual:
            raise _residual_error(self)
        if not results:
            raise _empty_error(self)
        owned = [made.entities for made in results if made.entities is not None]
        content = (
            matrix(results),
            np.concatenate([made.labels for made in results]),
            np.concatenate(owned) if owned else None,
        )
        extra = pa.Table.from_batches([made.extra for made in results])
        receipts = tuple(self.receipts)
        return build_batch(content, self.contract.schema(), extra, self.whole(), receipts)

    def _results(self) -> Iterator[tuple[Sanitised, Receipt]]:
        """What is left of each batch, if anything is, and its receipt."""
        plan = self._checked_plan()
        if self._begun:
            # A second pass would link, and count, every row once more.
            raise LocalProtocolError(
                "connect.reading",
                "a reading is one pass",
                remedy="make another one of the contract",
            )
        self._begun = True
        source = self._open(plan)
        sanitiser = self._sanitiser(plan, source)
        gate, left_out = self._gate(plan, source, sanitiser)
        made_by = (
            plan,
            plan.digest,
            self.contract.schema().digest,
            _source_digest(source, plan.never_decoded),
        )
        # The digest of one batch is computed while the next one is sanitised.
        with ThreadPoolExecutor(1, thread_name_prefix="tacit-digest") as digester:
            waiting: _Waiting | None = None
            with closing(_pieces(source, plan)) as pieces:
                for piece in pieces:
                    part = self._part(piece, sanitiser)
                    if gate is not None:
                        part = _gated(piece.place, part, gate, left_out)
                    following = _Waiting(part, digester.submit(_data_digest, part.made))
                    if waiting is not None:
                        yield from self._finished(waiting, made_by)
                    waiting = following
            if gate is not None:
                gate.require_all_again(source.place)
            if waiting is not None:
                yield from self._finished(waiting, made_by)
        self._ended = True

    def _finished(
        self, done: _Waiting, made_by: tuple[Plan, Digest, Digest, Digest]
    ) -> Iterator[tuple[Sanitised, Receipt]]:
        receipt = self._receipt(done, made_by)
        self.receipts.append(receipt)
        made = done.part.made
        if made is not None and len(made.labels):
            yield made, receipt

    @property
    def residual(self) -> bool:
        """Whether a batch was set aside because its result looks like what it must not hold."""
        return any(receipt.residual for receipt in self.receipts)

    def rows(self) -> Rows:
        """Row counts so far."""
        counts = [receipt.rows for receipt in self.receipts]
        return Rows(
            sum(count.in_ for count in counts),
            sum(count.out for count in counts),
            sum(count.quarantined for count in counts),
        )

    def _checked_plan(self) -> Plan:
        contract, permission = self.contract, self.permission
        if permission.contract != contract.digest:
            raise LocalProtocolError(
                "connect.permission",
                f"the permission is not for contract '{contract.name}' as it stands",
                remedy="ask the policy about this contract",
            )
        if contract.status not in USED:
            raise ConfigError(
                "connect.status",
                f"contract '{contract.name}' has the status '{contract.status}'",
                remedy="review it, then set status = 'active'",
                key="status",
            )
        return Plan.compile(contract, permission.rows)

    def _open(self, plan: Plan) -> Source:
        name = self.contract.server.secret
        secret = read_secret(self.base, name) if name is not None else None
        source = open_source(self.contract.server, self.base, secret)
        if not source.text:
            _check_types(source.place, source.schema(plan.never_decoded), plan)
        return source

    def _sanitiser(self, plan: Plan, source: Source) -> Sanitiser:
        at = self.permission.now if self.at is None else self.at
        keys = column_keys(self.contract, self.keys, self.permission.purpose, at)
        return Sanitiser(plan, keys, text=source.text)

    def _gate(
        self, plan: Plan, source: Source, sanitiser: Sanitiser
    ) -> tuple[Gate | None, pa.Array]:
        """A first pass over everything, where the contract asks for anonymity of the whole."""
        anonymity = self.contract.anonymity
        if anonymity is None:
            return None, pa.array([], pa.binary())
        sensitive = tuple(
            column.name
            for column in self.contract.columns
            if column.classification == "sensitive" and column.method != "drop"
        )
        gate = Gate(anonymity, self.contract.quasi_identifiers, sensitive)
        with closing(_pieces(source, plan)) as pieces:
            for piece in pieces:
                gate.see(self._part(piece, sanitiser).gated)
        self.quarantined.clear()  # The second pass lists them again.
        return gate, gate.require(source.place)

    def _part(self, piece: Piece, sanitiser: Sanitiser) -> _Part:
        """One batch, sanitised, without the rows to set aside."""
        return attempt(
            lambda: self._sanitised(piece, sanitiser),
            lambda _error: _unfit(piece),
            (pa.ArrowException,),
        )

    def _sanitised(self, piece: Piece, sanitiser: Sanitiser) -> _Part:
        batch, rows = piece.batch, piece.batch.num_rows
        numbers: Numbers = range(piece.first_row + 1, piece.first_row + 1 + rows)
        for _ in range(MAX_ATTEMPTS):
            try:
                allowed = sanitiser.permitted(batch)
                if allowed is not None and not allowed.all():
                    rows -= int(np.count_nonzero(~allowed))
                    batch, numbers = batch.filter(pa.array(allowed)), _chosen(numbers, allowed)
                if not batch.num_rows:
                    return _Part(rows, None, Counter())
                made = sanitiser.apply(batch)
            except BadCell as bad:
                batch, numbers = self._set_aside(piece.place, batch, numbers, bad)
                continue
            hits = self._residual(piece.place, numbers, made)
            return _Part(rows, None if hits else made, hits)
        raise ConfigError(
            "connect.too-many-bad-rows",
            f"{piece.place}: too many rows after data row {piece.first_row} break the contract",
            remedy="correct the data, or the contract; nothing was used",
            file=piece.place,
        )

    def _set_aside(
        self,
        place: str,
        batch: pa.RecordBatch,
        numbers: Numbers,
        bad: BadCell,
    ) -> tuple[pa.RecordBatch, Numbers]:
        """The batch without its bad rows, or an error where the contract refuses them."""
        declared = next(c for c in self.contract.columns if c.name == bad.column)
        if self.contract.invalid_rows == "refuse" and declared.method != "quarantine":
            raise _cell_error(place, int(numbers[bad.index]), bad.column, bad.problem) from None
        marked = bad.all_bad
        if marked is None:
            marked = np.zeros(len(numbers), dtype=np.bool_)
            marked[bad.index] = True
        self._list(place, _chosen(numbers, marked), bad.column, bad.problem)
        return batch.filter(pa.array(~marked)), _chosen(numbers, ~marked)

    def _residual(self, place: str, numbers: Numbers, made: Sanitised) -> Counter[str]:
        """Scans the texts of a result; a hit sets the whole batch aside."""
        counts: Counter[str] = Counter()
        for column in self.contract.columns:
            if column.method not in SCANNED:
                continue
            cells = made.extra.column(column.name)
            for hit in scan(cells, SCANNED[column.method], self.contract.canaries):
                counts[hit.detector] += 1
                problem = f"still looks like '{hit.detector}' after its transform"
                self._list(place, numbers[hit.row : hit.row + 1], column.name, problem)
        return counts

    def _list(self, place: str, rows: Numbers, column: str, problem: str) -> None:
        room = max(0, MAX_LISTED - len(self.quarantined))
        self.quarantined += [Quarantined(place, int(row), column, problem) for row in rows[:room]]

    def _receipt(self, done: _Waiting, made_by: tuple[Plan, Digest, Digest, Digest]) -> Receipt:
        plan, plan_digest, schema, source = made_by
        part = done.part
        out = len(part.made.labels) if part.made is not None else 0
        rows = Rows(part.rows, out, part.rows - out)
        return Receipt(
            name=self.contract.name,
            contract=self.permission.contract,
            policy=self.permission.policy,
            plan=plan_digest,
            schema=schema,
            source=source,
            number=len(self.receipts) + 1,
            previous=self.receipts[-1].digest if self.receipts else FIRST,
            rows=rows,
            columns=_columns(plan, rows.in_),
            residual=tuple(sorted(part.hits.items())),
            data=done.digest.result(),
        )

    def whole(self) -> Receipt:
        """The receipt of the whole data set, once every batch was read.

        Raises:
            LocalProtocolError: There was no batch, or the last one was not read.
        """
        if not (self.receipts and self._ended):
            raise LocalProtocolError(
                "connect.receipt", "the data set was not read to its end, or has no rows"
            )
        last = self.receipts[-1]
        digest = last.digest
        return Receipt(
            name=last.name,
            contract=last.contract,
            policy=last.policy,
            plan=last.plan,
            schema=last.schema,
            source=last.source,
            number=0,
            previous=digest,
            rows=self.rows(),
            columns=tuple(
                ColumnReceipt(c.name, c.class_, c.method, c.detail, cells, c.synthetic)
                for c, cells in zip(last.columns, _cells(self.receipts), strict=True)
            ),
            residual=(),
            data=digest,
        )


def read(
    contract: Contract,
    base: Path,
    permission: Permission,
    keys: DataKeys | None = None,
    at: Milliseconds | None = None,
) -> SanitisedBatch:
    """Reads the whole data set of a contract into memory; the first thing that breaks it stops it.

    Args:
        contract: What every column is.
        base: Folder that the source's path is relative to.
        permission: The policy's yes, asked before.
        keys: Where keys of tokens come from; needed when a column has a keyed method.
        at: Decides on the period of keys; by default the time of the permission.

    Guarantee:
        Of a column that the contract does not keep, no cell reaches the batch, the receipt or an error:
        dropped columns are not read, the others come out as tokens or coarser values only. Without a
        policy's permission nothing is read at all.
        Checked by tests/property/test_connect_canary.py::test_no_canary_survives and
        tests/unit/test_connect_read.py::test_without_a_permission_nothing_is_read.

    Raises:
        ConfigError: As of ``Reading``; also no records, or a result that the residual scan objects to.
    """
    return Reading(contract, base, permission, keys, at).collect()


def inspect(contract: Contract, base: Path, now: Milliseconds) -> Inspection:
    """What ``read`` would set aside, and how many rows it would use, without any row rules.

    For the operator who looks after the data: no policy is asked, because nothing but counts and places
    comes out; keys are made up and forgotten.

    Args:
        contract: What every column is.
        base: Folder that the source's path is relative to.
        now: The time.

    Raises:
        ConfigError: As of ``Reading``.
    """
    permission = build_permission(contract, NO_POLICY, "inspection", now, (), None)
    reading = Reading(contract, base, permission, _Forgotten())
    for _ in reading:
        pass
    return Inspection(reading.rows(), tuple(reading.quarantined))


class _Forgotten:
    """Keys that nobody keeps."""

    def key(self, purpose: str, period: str) -> bytes:
        return os.urandom(KEY_BYTES)


def _pieces(source: Source, plan: Plan) -> Generator[Piece]:
    """Raw batches with rows, each decoded while the one before it is sanitised.

    To be closed by who iterates: left to the garbage collector, that could happen in the decoding thread,
    which would then wait for itself.
    """
    pieces, checked = _decoded(source, plan), False
    # One thread of its own, because some drivers want all calls from the thread that began.
    with ThreadPoolExecutor(1, thread_name_prefix="tacit-source") as decoder:
        try:
            following = decoder.submit(next, pieces, None)
            while (piece := following.result()) is not None:
                following = decoder.submit(next, pieces, None)
                if not (source.text or checked):
                    # Not of the first file's footer only: it may be empty, or another one by now.
                    _check_types(piece.place, piece.batch.schema, plan)
                    checked = True
                if piece.batch.num_rows:
                    yield piece
        finally:
            decoder.submit(pieces.close).result()


def _decoded(source: Source, plan: Plan) -> Generator[Piece]:
    """Row rules are pushed down where cells have types already."""
    if source.text:
        wanted = tuple(dict.fromkeys((*plan.projection, *plan.filter_columns)))
        yield from source.batches(plan.declared, wanted)
    else:
        where = stored_expression(plan.rows) if plan.rows is not None else None
        yield from source.batches(plan.declared, plan.projection, where)


def _check_types(place: str, stored: pa.Schema, plan: Plan) -> None:
    names = set(stored.names)
    for column in plan.contract.columns:
        if column.name not in names or column.name in plan.never_decoded:
            continue
        kind = stored.field(column.name).type
        if not stored_type_fits(kind, column):
            raise ConfigError(
                "connect.type",
                f"{place}: column '{column.name}' is stored as {kind}, not as "
                f"{column.logical_type}",
                remedy="correct logicalType in the contract, or the source",
                file=place,
                column=column.name,
            )


def _gated(place: str, part: _Part, gate: Gate, left_out: pa.Array) -> _Part:
    """A batch of the second pass, without the rows of groups that are too small."""
    gate.see_again(place, part.gated)
    if part.made is None:
        return part
    return replace(part, made=part.made.take(gate.outside(part.made.gated, left_out)))


def _source_digest(source: Source, unseen: Sequence[str]) -> Digest:
    fields = sorted(f"{item.name}\0{item.type}" for item in source.schema(unseen))
    return Digest(hashlib.sha256("\1".join(fields).encode()).digest())


def _columns(plan: Plan, cells: int) -> tuple[ColumnReceipt, ...]:
    return tuple(
        ColumnReceipt(
            c.name,
            c.classification,
            c.method,
            plan.detail(c),
            0 if c.name in plan.never_decoded else cells,
            c.synthetic,
        )
        for c in plan.contract.columns
    )


def _cells(receipts: list[Receipt]) -> list[int]:
    """Cells of each column over all batches."""
    each = zip(*([column.cells for column in receipt.columns] for receipt in receipts), strict=True)
    return [sum(cells) for cells in each]


def _chosen(numbers: Numbers, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The numbers where ``rows`` is true."""
    if isinstance(numbers, range):
        numbers = np.arange(numbers.start, numbers.stop)
    return numbers[rows]


def _data_digest(made: Sanitised | None) -> Digest:
    """Column by column, as they lie in memory: their shapes tell how to split the bytes again."""
    data = hashlib.sha256()
    if made is not None:
        data.update(repr([part.shape for part in made.features]).encode())
        for part in made.features:
            data.update(np.ascontiguousarray(part, dtype="<f8").data)
        data.update(np.ascontiguousarray(made.labels, dtype="<i8").data)
        if made.entities is not None:
            data.update(np.ascontiguousarray(made.entities, dtype="<u8").data)
    return Digest(data.digest())


def _empty_error(reading: Reading) -> ConfigError:
    name = reading.contract.name
    if reading.rows().quarantined:
        return ConfigError(
            "connect.empty",
            f"data set '{name}' has no records that may be used: all that the policy permits are set "
            "aside",
            remedy="list them, without their values, with 'tacit contract quarantine', and correct them",
        )
    rules = ", or the policy's row rules" if reading.permission.rows is not None else ""
    return ConfigError(
        "connect.empty",
        f"data set '{name}' has no records that may be used",
        remedy=f"correct 'server' in the contract{rules}, or leave the site out of the run",
        key="server",
    )


def _residual_error(reading: Reading) -> ConfigError:
    found = (item for item in reading.quarantined if "still looks like" in item.problem)
    first = next(found, None)  # None where so many rows were set aside before that it is not listed
    if first is None:
        name = reading.contract.name
        message, details = f"contract '{name}': a batch still looks like what it must not hold", {}
    else:
        error = _cell_error(first.place, first.row, first.column, first.problem)
        message, details = error.message, error.details
    return ConfigError(
        "connect.residual",
        message,
        remedy="the contract lets through what it must not: drop the column or use another method; "
        "nothing was used",
        **details,
    )


def _unfit(piece: Piece) -> ConfigError:
    """The error for what Arrow refuses in a batch and no check foresaw: Arrow's own may quote a cell."""
    first = piece.first_row + 1
    return ConfigError(
        "connect.rows",
        f"{piece.place}: a cell of data rows {first} to {piece.first_row + piece.batch.num_rows} "
        "cannot be computed with",
        remedy="look for values out of the ordinary there, correct them or the contract; "
        "nothing was used",
        file=piece.place,
        row=first,
    )


def _cell_error(place: str, row: int, column: str, problem: str) -> ConfigError:
    """The error for one bad cell: where it is and what is wrong, never what it holds."""
    return ConfigError(
        "connect.cell",
        f"{place}: data row {row}, column '{column}': the cell {problem}",
        remedy="correct the data or the contract; nothing was used",
        file=place,
        row=row,
        column=column,
    )
