"""One who can write everything that is in the database."""

import re
from typing import Any

from sqlalchemy import Connection, Executable, Select, delete, insert, select, text, update

from storage.hashchain import Frontier, entry_hash, genesis_hash, leaf_hash
from storage.tables import Table


class Intruder:
    """Somebody for whom neither triggers nor foreign keys hold, in one transaction."""

    log = Table.metadata.tables["audit_logs"]
    state = Table.metadata.tables["audit_state"]

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        if connection.dialect.name == "sqlite":  # foreign keys are off unless asked for
            self.run(text("DROP TRIGGER audit_logs_no_update"))
            self.run(text("DROP TRIGGER audit_logs_no_delete"))
        else:
            for table in Table.metadata.tables:
                self.run(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))

    def run(self, statement: Executable) -> None:
        self._connection.execute(statement)

    def row(self, statement: Select[Any]) -> dict[str, Any]:
        return dict(self._connection.execute(statement).mappings().one())

    def entry(self, seq: int) -> dict[str, Any]:
        return self.row(select(self.log).where(self.log.c.seq == seq))

    def entries(self) -> list[dict[str, Any]]:
        found = self._connection.execute(select(self.log).order_by(self.log.c.seq))
        return [dict(row) for row in found.mappings()]

    def change_entry(self, at: int, **values: Any) -> None:
        self.run(update(self.log).where(self.log.c.seq == at).values(values))

    def add_entry(self, row: dict[str, Any]) -> None:
        self.run(insert(self.log).values(row))

    @staticmethod
    def hashed(row: dict[str, Any]) -> dict[str, Any]:
        """`row` with the hashes its payload and place should have."""
        leaf = leaf_hash(row["payload"].encode())
        tip = entry_hash(row["previous_hash"], row["seq"], leaf)
        return row | {"leaf_hash": leaf, "entry_hash": tip}

    @staticmethod
    def denied(row: dict[str, Any]) -> dict[str, Any]:
        """`row` with another outcome, in its column and in its payload."""
        payload = row["payload"].replace('"outcome":"success"', '"outcome":"denied"')
        assert payload != row["payload"]
        return row | {"payload": payload, "outcome": "denied"}

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Write the whole log anew, numbered and hashed as it should be, and the state with it."""
        origin: str = self.row(select(self.state))["origin"]
        tip, frontier = genesis_hash(origin), Frontier()
        self.run(delete(self.log))
        for seq, row in enumerate(rows, 1):
            payload = re.sub(r'"seq":\d+', f'"seq":{seq}', row["payload"])
            whole = self.hashed(row | {"seq": seq, "previous_hash": tip, "payload": payload})
            tip = whole["entry_hash"]
            frontier.append(whole["leaf_hash"])
            self.add_entry(whole)
        values = {"size": frontier.size, "tip_hash": tip, "frontier": frontier.to_bytes()}
        self.run(update(self.state).values(values))
