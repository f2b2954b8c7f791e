"""One connection of the fast lane: a batch of reads goes out in one write, and their answers come back in that order.

The batch is one pipeline with one sync at its end, so one implicit transaction of selects. If one of them fails, the
server skips what comes after it in the batch; those that were skipped go to the pool, like the one that failed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer

from service.db.describe import numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from service.db.statement import Connection, Statement

_PATIENCE = 1.0
"""Seconds one batch may take before its connection is given up."""
_OF_THE_VALUES = ("22", "57014")
"""SQLSTATEs, or their beginnings, that say nothing against the connection or its statements: values that do not fit,
and a query that was cancelled or took too long. After any other the connection is not used again."""
_ROW = pq.ExecStatus.TUPLES_OK
_SYNC = pq.ExecStatus.PIPELINE_SYNC


class NotTaken(Exception):
    """The read was not done here: do it through the pool."""


Read: TypeAlias = "tuple[Statement[Any], dict[str, Any], asyncio.Future[Any]]"
"""One read: its statement, its values, and who waits for its row."""


class _Known:
    """A statement as one connection knows it: how its values are dumped and its rows loaded."""

    __slots__ = ("formats", "loads", "make_row", "names", "prepared", "sql", "transformer")

    def __init__(self, conn: Connection, statement: Statement[Any]) -> None:
        sql, self.names = numbered(statement.sql)
        self.sql = sql.encode()
        self.formats = [PyFormat.AUTO] * len(self.names)
        self.transformer = Transformer(conn)
        self.make_row = statement.make_row
        self.loads = False
        self.prepared: dict[tuple[int, ...] | None, bytes] = {}
        """The parameters' types → the name under which it is prepared for them: an int has several types."""

    def row(self, result: pq.abc.PGresult) -> Any:
        """Return the row, or None if there is none. Raises `NotTaken` for several."""
        count = result.ntuples
        if count == 1:
            self.transformer.set_pgresult(result, set_loaders=not self.loads)
            self.loads = True
            return self.transformer.load_row(0, self.make_row)
        if count:
            raise NotTaken
        return None


_Sent: TypeAlias = tuple[_Known, "asyncio.Future[Any] | None"]
"""What one answer is for: a statement and who waits for its row, or nobody where it was only prepared."""


class Pipeline:
    """One connection in libpq's pipeline mode. It has one batch in progress at most.

    A batch is drained to its sync before the next is sent, whether somebody still waits or not: so nobody can get
    somebody else's answer.

    Args:
        conn: in autocommit, and nobody else's from now on.
        ready: called when a batch is done and the next may come.
        gone: called when it is closed.

    """

    def __init__(self, conn: Connection, ready: Callable[[], None], gone: Callable[[Pipeline], None]) -> None:
        self._conn = conn
        self._pg = conn.pgconn
        self._ready = ready
        self._gone = gone
        self._sent: deque[_Sent] = deque()
        self._result: pq.abc.PGresult | None = None
        self._statements: dict[Statement[Any], _Known] = {}
        self._prepared = 0
        self._made = time.monotonic()
        self._began = 0.0
        self._busy = False
        self._cancelled = False
        self._retired = False
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._descriptor = self._pg.socket
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._readable)

    @property
    def free(self) -> bool:
        """Whether it takes a batch now."""
        return not (self._busy or self._retired)

    def age(self) -> float:
        """Return the seconds since it was connected."""
        return time.monotonic() - self._made

    def stuck(self) -> bool:
        """Tell whether the batch in progress takes too long."""
        return self._busy and time.monotonic() - self._began > _PATIENCE

    def send(self, reads: list[Read]) -> None:
        """Do the reads, in one batch. Only when `free`."""
        self._began = time.monotonic()
        self._cancelled = False
        try:
            for statement, values, waiter in reads:
                if not waiter.done():
                    self._add(statement, values, waiter)
            if self._sent:
                self._busy = True
                self._pg.pipeline_sync()
                if self._pg.flush():
                    self._loop.add_writer(self._descriptor, self._writable)
        except psycopg.Error:
            self.close()
            refuse(waiter for _, _, waiter in reads)

    def cancel_if_nobody_waits(self) -> None:
        """Cancel the batch in progress in the database if all who waited for it have left."""
        if self._busy and all(waiter is None or waiter.done() for _, waiter in self._sent):
            self._cancel()

    def retire(self) -> None:
        """Take no more batches, and close when the one in progress is done."""
        self._retired = True
        if not self._busy:
            self.close()

    def close(self) -> None:
        """Close the connection; everyone who waits goes to the pool. The server ends by itself what nobody hears."""
        self._retired = True
        self._busy = False
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._pg.finish()
        refuse(waiter for _, waiter in self._sent)
        self._sent.clear()
        self._gone(self)

    def _cancel(self) -> None:
        # It may come late and hit the next batch, which then goes to the pool.
        if not self._cancelled:
            self._cancelled = True
            self._loop.run_in_executor(None, _cancel, self._pg.get_cancel())

    def _add(self, statement: Statement[Any], values: dict[str, Any], waiter: asyncio.Future[Any]) -> None:
        """Put the read into the batch, after preparing its statement if that is new here."""
        known = self._statements.get(statement)
        try:
            if known is None:
                known = self._statements[statement] = _Known(self._conn, statement)
            transformer = known.transformer
            params = transformer.dump_sequence([values[name] for name in known.names], known.formats)
        except Exception:  # noqa: BLE001 - whatever it is, the pool meets it too, and raises it
            waiter.set_exception(NotTaken())
            return
        types = transformer.types
        name = known.prepared.get(types)
        if name is None:
            self._prepared += 1
            name = known.prepared[types] = b"lane_%d" % self._prepared
            self._pg.send_prepare(name, known.sql, param_types=types)
            self._sent.append((known, None))
        self._pg.send_query_prepared(name, params, param_formats=transformer.formats)
        self._sent.append((known, waiter))

    def _writable(self) -> None:
        try:
            if not self._pg.flush():
                self._loop.remove_writer(self._descriptor)
        except psycopg.Error:
            self.close()

    def _readable(self) -> None:
        pg = self._pg
        try:
            pg.consume_input()
            while self._busy and not pg.is_busy():
                result = pg.get_result()
                if result is None:  # the end of one answer
                    if self._result is None:
                        return
                    self._answered(self._result)
                elif result.status == _SYNC:
                    self._done()
                else:
                    self._result = result
        except psycopg.Error:
            self.close()

    def _answered(self, result: pq.abc.PGresult) -> None:
        """Give the oldest of the batch its answer."""
        self._result = None
        known, waiter = self._sent.popleft()
        if waiter is None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                self.retire()
        elif result.status != _ROW:
            self._refused(waiter, result)
        elif not waiter.done():
            _tell(known, waiter, result)

    def _refused(self, waiter: asyncio.Future[Any], result: pq.abc.PGresult) -> None:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        if result.status != pq.ExecStatus.PIPELINE_ABORTED and not state.startswith(_OF_THE_VALUES):
            self.retire()
        refuse([waiter])

    def _done(self) -> None:
        self._busy = False
        if self._sent or self._retired:  # an answer too few is against the protocol
            self.close()
        else:
            self._ready()


def refuse(waiters: Iterable[asyncio.Future[Any] | None]) -> None:
    """Send those who still wait to the pool."""
    for waiter in waiters:
        if waiter is not None and not waiter.done():
            waiter.set_exception(NotTaken())


def _tell(known: _Known, waiter: asyncio.Future[Any], result: pq.abc.PGresult) -> None:
    try:
        row = known.row(result)
    except Exception:  # noqa: BLE001 - whatever it is, the pool meets it too, and raises it
        waiter.set_exception(NotTaken())
    else:
        waiter.set_result(row)


def _cancel(running: pq.abc.PGcancel) -> None:
    """Cancel what runs. Blocks for a connection of its own."""
    with suppress(psycopg.Error):
        running.cancel()
