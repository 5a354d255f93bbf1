"""Reading the ledger, fast: a SQLite file is read without loading SQLAlchemy, which takes half a second."""

import json
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect_campaign.model.errors import LedgerDamaged, Refused, Transient

_NO_TABLE = "42P01"
"""PostgreSQL's code for a table that does not exist."""

JSON_COLUMNS = frozenset(
    (
        "spec",
        "params",
        "changes",
        "monitoring",
        "healed",
        "handle",
        "cursors",
        "curve",
        "choices",
        "cost",
        "drop",
        "data",
        "hosts",
        "job",
        "reasons",
    )
)
"""Columns that hold JSON text; they come back decoded."""


class Reader:
    """Runs SELECT statements with ``:name`` parameters on a ledger URL."""

    def __init__(self, url: str) -> None:
        self._engine: Any = None
        self._sqlite: sqlite3.Connection | None = None
        if url.startswith("sqlite"):
            path = Path(url.split("///", 1)[1])
            if not path.is_file():
                raise Refused(f"ledger {path}: does not exist yet; nothing was run with this CAMPAIGN_HOME")
            self._place = str(path)
            self._sqlite = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)
            self._sqlite.row_factory = sqlite3.Row
        else:
            self._place = url.rsplit("@", 1)[-1]
            self._engine = _server(url)

    def rows(self, sql: str, **params: Any) -> list[dict[str, Any]]:
        """All rows of a SELECT, JSON columns decoded.

        Raises:
            LedgerDamaged: the file is no readable ledger.
        """
        try:
            found = self._select(sql, params)
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise Transient(f"ledger {self._place}: locked by another process for 30 s; try again") from None
            if "no such table" in text:
                raise Refused(f"ledger {self._place}: holds no campaigns yet; run one first") from None
            raise LedgerDamaged(self._damaged(error)) from None
        except sqlite3.DatabaseError as error:
            raise LedgerDamaged(self._damaged(error)) from None
        for row in found:
            for key in row.keys() & JSON_COLUMNS:
                if self._sqlite is not None and isinstance(row[key], str):  # other drivers decode by themselves
                    row[key] = json.loads(row[key])
        return found

    def close(self) -> None:
        """Let go of the database."""
        if self._sqlite is not None:
            self._sqlite.close()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, error: Exception) -> str:
        return f"ledger {self._place}: cannot be read ({error}); it was left untouched: move it aside or restore a copy"

    def _select(self, sql: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        if self._sqlite is not None:
            return [dict(row) for row in self._sqlite.execute(sql, params)]
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError, ProgrammingError

        try:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(text(sql), params).mappings()]
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", "") == _NO_TABLE:
                raise Refused(f"ledger {self._place}: holds no campaigns yet; run one first") from None
            raise
        except OperationalError as error:
            said = str(error.orig).splitlines()[0]
            raise Transient(f"ledger {self._place}: cannot be reached ({said}); is the server up?") from None


@cache
def _server(url: str) -> Any:
    """One pool of connections for all readers of this process: to open one costs more than to read."""
    from prefect_campaign.ledger.store import server_engine

    return server_engine(url)
