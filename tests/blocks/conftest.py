"""Databases for the tests of `blocks/`."""

from tests.databases import ledger_url, postgres_schema_url, postgres_url

__all__ = ["ledger_url", "postgres_schema_url", "postgres_url"]
