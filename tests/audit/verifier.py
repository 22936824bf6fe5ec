"""What the tests of medai-verify share: its exit codes, and a log on one kind of database."""

import pytest

OK, TAMPERED, TRUNCATED, UNVERIFIABLE, USAGE = range(5)


@pytest.fixture
def url(sqlite_url: str) -> str:
    """The verifier reads a file: for it, one database is like the other."""
    return sqlite_url
