"""SQL text for lists of rows, made once for each shape and remembered.

Names come from our own tables, values are always parameters. Lists are cut or padded to powers of two,
so that few different texts exist and the drivers' prepared statements fit.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Table

from blocks.ledger.schema import CELLS, TALLY_COLUMNS

MAX_ROWS = 64
"""Rows in one INSERT. One statement for many rows: each waits for the interpreter's lock."""

_SUMS = ", ".join(f"{name} = {name} + ?" for name in TALLY_COLUMNS)
ADD_TO_CELL = f"UPDATE swarmc_cells SET {_SUMS} WHERE run_id = ? AND stage = ? AND lane = ?"  # noqa: S608


@lru_cache(maxsize=1024)
def marked(sql: str, mark: str) -> str:
    """`sql` with the driver's parameter mark for each `?`."""
    return sql.replace("?", mark)


@lru_cache(maxsize=256)
def select_sql(table: Table, rest: str, names: tuple[str, ...] = ()) -> str:
    """`SELECT` these columns of `table`, or all in their order, and `rest`: `WHERE` and so on."""
    return f"SELECT {', '.join(names or table.columns.keys())} FROM {table.name} {rest}"  # noqa: S608


@lru_cache(maxsize=256)
def insert_sql(table: Table, size: int) -> str:
    """`INSERT` of `size` full rows."""
    row = f"({','.join('?' * len(table.columns))})"
    return f"INSERT INTO {table.name} ({', '.join(table.columns.keys())}) VALUES {','.join([row] * size)}"  # noqa: S608


@lru_cache(maxsize=64)
def replace_sql(table: Table, size: int) -> str:
    """`INSERT` of `size` full rows, in place of those that have their primary keys."""
    key = [column.name for column in table.columns if column.primary_key]
    sets = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.columns if not column.primary_key)
    return f"{insert_sql(table, size)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}"


@lru_cache(maxsize=64)
def delete_sql(table: Table, column: str) -> str:
    """`DELETE` of the rows whose `column` is in a list."""
    return f"DELETE FROM {table.name} WHERE {column} IN ?"  # noqa: S608


@lru_cache(maxsize=1)
def new_cell_sql() -> str:
    """`INSERT` of a cell of zeros, unless it is there."""
    return f"{insert_sql(CELLS, 1)} ON CONFLICT (run_id, stage, lane) DO NOTHING"


@lru_cache(maxsize=256)
def with_lists(sql: str, sizes: tuple[int, ...]) -> str:
    """`sql` with its first `IN ?` for a list of `sizes[0]` values, and so on."""
    for size in sizes:
        sql = sql.replace("IN ?", f"IN ({','.join('?' * size)})", 1)
    return sql


def padded(values: Sequence[str]) -> list[str]:
    """`values` with its last repeated up to a power of two: the same set."""
    if not values:
        return []
    return [*values, *[values[-1]] * ((1 << (len(values) - 1).bit_length()) - len(values))]


def chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`rows` in pieces whose sizes are powers of two, at most `MAX_ROWS`."""
    done = 0
    while done < len(rows):
        size = min(MAX_ROWS, 1 << ((len(rows) - done).bit_length() - 1))
        yield rows[done : done + size]
        done += size
