"""Verify MedAI Flow's audit log, or the evidence of one result, without MedAI Flow.

This file needs Python 3.11 and the package `cryptography`, and shares no code with the service: an
auditor can read all of it, and run it on a machine that was never near the hospital's. What it
computes (docs/audit.md tells more):

    leaf(n)    = SHA-256(0x00 || payload(n))                     payload: the exact bytes stored
    entry(n)   = SHA-256("medaiflow/audit/entry/v1" LF || entry(n-1) || u64be(n) || leaf(n))
    entry(0)   = SHA-256("medaiflow/audit/genesis/v1" LF || origin)
    node(l, r) = SHA-256(0x01 || l || r)                         the Merkle tree of RFC 6962
    checkpoint = origin LF size LF base64(root) LF               signed, c2sp.org/signed-note

The chain finds what was changed inside the log. A log that was cut, or written anew with new
hashes, agrees with itself; the signed checkpoints find it, and those that were kept outside the
database (anchors) find it also where the database's own were removed.

Where an old backup was restored for good, two administrators gave the entries after it up: an entry
`log.recovery` names the anchored head that was lost. It excuses the anchors up to that head, and
nothing else, once a later head is signed; the gap is always reported.
"""

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

OK, TAMPERED, TRUNCATED, UNVERIFIABLE, USAGE = range(5)
VERDICTS = ("OK", "TAMPERED", "TRUNCATED", "UNVERIFIABLE")
CLOCK_TOLERANCE = timedelta(seconds=5)
NAMES = (  # of the columns beside a payload, in the order of an export
    *("seq", "event_id", "created_at", "epoch", "action", "outcome", "description", "user_id"),
    *("model_version_id", "inference_result_id", "context"),
    *("previous_hash", "entry_hash", "leaf_hash"),
)
HELP = """\
to verify the log:
  1. Get an export of the log, the anchor file, and the log's public key. The key must come another
     way than the export: whoever can forge the one could forge the other.
  2. medai-verify log export.jsonl --anchors anchors.jsonl --vkey NAME+ID+KEY --save-state s.json
     (--vkey @FILE reads the key from a file)
  3. Next time have only what is new exported, and go on: --from-state s.json --save-state s.json
  The segments of an archive are exports; give them in order, and the live log's export last:
  medai-verify log archive/*.jsonl rest.jsonl --anchors anchors.jsonl --vkey NAME+ID+KEY
to verify one result, or one entry:
  medai-verify evidence evidence.json --vkey NAME+ID+KEY

exit codes:
  0  everything agrees
  1  tampered with: the first bad entry and the kind of damage are printed
  2  truncated: entries are missing at the end that were signed, or verified before
  3  unverifiable: nothing contradicts, but a key, a checkpoint, an anchor or the beginning is
     missing
  4  wrong usage, or a file cannot be read

kinds of damage:
  gap        an entry's number is missing, comes twice or out of order
  payload    an entry's text is not the one that was hashed
  chain      an entry does not follow the one before it
  root       the entries are not those that were signed: the log was written anew
  signature  a checkpoint or a change of key is not signed by the log's key
  column     what the database shows beside an entry is not what the entry says
  record     the stored result is not the one that was recorded
  clock      time went back without an entry that says so
  epoch      a writer wrote after it had been replaced
  genesis    this is not the log the key belongs to
  anchors    the anchor file was not only added to
  recovery   entries were given up as lost, but not those that were anchored, or by one person

lost entries that two administrators gave up after a restore are no damage: see "recovered"
"""
_DECODE = json.JSONDecoder().raw_decode
_ENTRY, _LEAF, _NODE = b"medaiflow/audit/entry/v1\n", b"\x00", b"\x01"


class Unverifiable(Exception):
    """There is not enough to tell right from wrong."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def base64_bytes(text: str) -> bytes:
    """Base64 in its one spelling: no two texts stand for the same bytes. Raises `ValueError`."""
    value = base64.b64decode(text, validate=True)
    if base64.b64encode(value).decode() != text:
        raise ValueError("not the one spelling")
    return value


def entry_hash(previous: bytes, seq: int, leaf: bytes) -> bytes:
    return sha256(_ENTRY + previous + seq.to_bytes(8, "big") + leaf)


@dataclass
class Key:
    """A public key of the log, and the sizes of the log that it signs for."""

    vkey: str
    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        try:
            self.name, key_id, material = self.vkey.split("+", 2)
            raw = base64_bytes(material)
            self.public = Ed25519PublicKey.from_public_bytes(raw[1:])
        except ValueError:
            raise Unverifiable("a key is not of the form NAME+ID+KEY") from None
        named = self.name.encode() + b"\n"
        self.id, self.timed_id = (sha256(named + kind + raw[1:])[:4] for kind in (b"\x01", b"\x04"))
        if raw[:1] != b"\x01" or self.id.hex() != key_id:
            raise Unverifiable("a key's id is not that of the key, or it is no Ed25519 key")

    def signs_for(self, size: int) -> bool:
        return self.first <= size and (self.last is None or size <= self.last)


def opened(note: str, keys: Iterable[Key]) -> tuple[str, datetime | None]:
    """The text of a note that one of `keys` has signed, and the time that it signed, if any.

    Raises `InvalidSignature` where a signature of a known key is wrong or the note is malformed,
    `Unverifiable` where no known key has signed.
    """
    head, _, lines = note.rpartition("\n\n")
    text, time, known = head + "\n", None, False
    for line in lines.removesuffix("\n").split("\n"):
        try:
            dash, name, value = line.split(" ")
            raw = base64_bytes(value)
        except ValueError:
            raise InvalidSignature from None
        for key in keys:
            if dash == "\N{EM DASH}" and name == key.name and raw[:4] == key.id:
                key.public.verify(raw[4:], text.encode())
                known = True
            elif dash == "\N{EM DASH}" and name == key.name and raw[:4] == key.timed_id:
                seconds = int.from_bytes(raw[4:12], "big")
                timed = f"cosignature/v1\ntime {seconds}\n{text}"
                key.public.verify(raw[12:], timed.encode())
                time = datetime.fromtimestamp(seconds, UTC)
    if not known:
        raise Unverifiable("a checkpoint is signed by no key given")
    return text, time


def head_of(note: str, keys: Iterable[Key]) -> tuple[int, bytes, datetime | None]:
    """Size, root and time of a signed checkpoint. Raises as `opened` does."""
    try:
        origin, number, encoded = note.split("\n")[:3]
        size, root = int(number), base64_bytes(encoded)
    except ValueError:
        raise InvalidSignature from None
    text, time = opened(note, [key for key in keys if key.name == origin and key.signs_for(size)])
    if text != f"{origin}\n{size}\n{encoded}\n":
        raise InvalidSignature
    return size, root, time


def size_of(note: str) -> int:
    """The size that a checkpoint claims; 0 where that is no number."""
    number = note.split("\n")[1]
    return int(number) if number.isdecimal() else 0


class Tree:
    """A growing Merkle tree, kept as the roots of its perfect subtrees, the largest first."""

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size, self.nodes = size, list(nodes)

    def append(self, leaf: bytes) -> None:
        carry = self.size
        while carry & 1:
            leaf = sha256(_NODE + self.nodes.pop() + leaf)
            carry >>= 1
        self.nodes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        root = self.nodes[-1]
        for left in reversed(self.nodes[:-1]):
            root = sha256(_NODE + left + root)
        return root


def root_of_proof(leaf: bytes, index: int, size: int, proof: Iterable[bytes]) -> bytes | None:
    """The root to which `proof` leads from leaf `index`, from 0 (RFC 9162, 2.1.3.2), or None."""
    last = size - 1
    if not 0 <= index <= last:
        return None
    for sibling in proof:
        if last == 0:
            return None
        if index & 1 or index == last:
            leaf = sha256(_NODE + sibling + leaf)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            leaf = sha256(_NODE + leaf + sibling)
        index, last = index >> 1, last >> 1
    return leaf if last == 0 else None


class LogCheck:
    """Walks an export. After damage it goes on from what is stored: one edit is one finding."""

    def __init__(self, keys: list[Key], state: dict[str, Any] | None = None) -> None:
        self.keys, self.origin = list({key.vkey: key for key in keys}.values()), keys[0].name
        self.findings: list[dict[str, Any]] = []
        self.doubts: set[str] = set()
        self.heads: dict[int, list[str]] = {}  # signed for a size not reached yet
        self.coming: Iterator[tuple[int, str, bool]] = iter(())
        self.anchor: tuple[int, str, bool] | None = None  # the next of them
        self.signed = {"checkpoint": 0, "anchor": 0}  # the largest size verified, by source
        self.signed_at: datetime | None = None
        self.clock_steps: list[int] = []
        self.recovered: list[dict[str, Any]] = []  # entries that were given up as lost
        self.has_anchors = False
        self.given_up: dict[int, int] = {}  # for each entry that gave anchors up: the largest
        self.missing, self.awaited, self.records = 0, "", False
        self.seq, self.ts, self.epoch = 0, "", 0
        self.tip = sha256(b"medaiflow/audit/genesis/v1\n" + self.origin.encode())
        self.tree: Tree | None = Tree()
        if state is not None:
            self.resume(state)
        if any(key.name != self.origin for key in self.keys):
            raise Unverifiable("the keys are of different logs")
        self.start = self.known = self.seq  # verified before this run, and before this file

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where an earlier verification ended well."""
        try:
            self.seq, self.ts, self.epoch = state["size"], state["ts"], state["epoch"]
            self.tip, self.signed = bytes.fromhex(state["tip"]), state["signed"]
            self.tree = Tree(self.seq, map(bytes.fromhex, state["nodes"]))
            keys = [Key(*key) for key in state["keys"]]
            self.recovered = state.get("recovered", [])
        except (ValueError, KeyError, TypeError):
            raise Unverifiable("the state cannot be read") from None
        if not {key.vkey for key in self.keys} <= {key.vkey for key in keys}:
            raise Unverifiable("the state was made with other keys: begin anew")
        self.keys = keys

    def state(self) -> dict[str, Any]:
        """What the next verification may begin with."""
        assert self.tree is not None
        return {
            "size": self.seq,
            "ts": self.ts,
            "epoch": self.epoch,
            "tip": self.tip.hex(),
            "nodes": [node.hex() for node in self.tree.nodes],
            "keys": [(key.vkey, key.first, key.last) for key in self.keys],
            "signed": self.signed,
            "recovered": self.recovered,
        }

    def find(self, seq: int, kind: str, message: str) -> None:
        self.findings.append({"seq": seq, "kind": kind, "message": message})

    def anchors(self, lines: Iterable[bytes]) -> Iterator[tuple[int, str, bool]]:
        """Size and note of each anchor, and whether its line says that the one before is given up.

        Their file must have been added to only.
        """
        prior, size = sha256(b"").hex(), 0
        for number, raw in enumerate(lines, start=1):
            line = raw.rstrip(b"\r\n")
            if not (line.startswith(b"{") and line.endswith(b"}")):
                continue  # cut short by a crash or a full disk
            try:
                anchor = json.loads(line)
                note, before = anchor["note"], size
                size = size_of(note)
                grows = size > before or anchor.get("recovers") == before
                if anchor["prior"] != prior or not grows:
                    self.find(0, "anchors", f"line {number} does not follow the line before it")
                yield size, note, "recovers" in anchor
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                self.find(0, "anchors", f"line {number} cannot be read")
            prior = sha256(line).hex()

    def reach(self, seq: int) -> None:
        """Check the anchors and checkpoints that were signed for the log as it is now."""
        for note in self.heads.pop(seq, ()):
            self.check_head(note, "checkpoint")
        while self.anchor is not None and self.anchor[0] <= seq:
            size, note, goes_back = self.anchor
            if goes_back:
                self.find(size, "recovery", "the anchors give entries up here, and no entry does")
            if size == seq > 0:
                self.check_head(note, "anchor")
            self.anchor = next(self.coming, None)

    def exports(self, files: Iterable[Iterator[str]], anchors: Iterable[bytes] = ()) -> None:
        """Walk exports that continue each other, and the anchors beside them."""
        self.coming = self.anchors(anchors)
        self.anchor = next(self.coming, None)
        self.has_anchors = self.anchor is not None
        for known in self.recovered:
            self.lose(known, verified=True)
        self.reach(self.seq)
        end, there = 0, self.seq
        for lines in files:
            self.known = self.seq
            end, there = self.export(lines)
            if self.seq < end:
                break
        self.finish(end, there)

    def export(self, lines: Iterator[str]) -> tuple[int, int]:
        """Walk one export; gives how far it should go by the database's word, and by its own."""
        try:
            header = json.loads(next(lines, ""))
            if header["medai_audit_export"] != 1 or tuple(header["columns"]) != NAMES:
                raise Unverifiable("the export is of another version")
            self.records, after, end = header["records"], header["after"], header["size"]
            if header["origin"] != self.origin:
                self.find(0, "genesis", f"the export is of the log {header['origin']!r}")
            if after > self.seq:
                raise Unverifiable(
                    f"an export begins after entry {after}: give those before it, or --from-state"
                )
            if header["last"] >= after == self.known > 0 and header["previous"] != self.tip.hex():
                self.find(after, "root", "the entry is not the one that was verified before")
            for line in lines:
                if line.startswith('{"payload":'):
                    self.entry(line)
                elif line.startswith('{"record":'):
                    self.record(line)
                else:
                    self.stored_head(line)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
            raise Unverifiable("this is not an export of the audit log") from None
        return end, min(end, header["last"])

    def entry(self, line: str) -> None:
        text, payload, row = parts(line)
        seq = row[0]
        if seq <= self.known:
            if seq == self.known and row[12] != self.tip.hex():
                self.find(seq, "root", "the entry is not the one that was verified before")
            return
        self.expect_no_record()
        leaf = sha256(_LEAF + text.encode())
        entry = entry_hash(self.tip, seq, leaf)
        if row[11:] != [self.tip.hex(), entry.hex(), leaf.hex()] or seq != self.seq + 1:
            leaf, entry = self.explain(row, leaf)
        if self.tree is not None:
            self.tree.append(leaf)
        self.seq, self.tip = seq, entry
        try:
            self.read(payload, row)
        except (ValueError, KeyError, TypeError, AttributeError, Unverifiable):
            self.find(seq, "payload", "the entry cannot be read")
        if seq in self.heads or (self.anchor is not None and self.anchor[0] <= seq):
            self.reach(seq)

    def explain(self, row: list[Any], leaf: bytes) -> tuple[bytes, bytes]:
        """Say what is wrong with the hashes; gives the leaf and the entry's hash to go on with."""
        seq = row[0]
        previous, entry, stored = (bytes.fromhex(text) for text in row[11:])
        if seq != self.seq + 1:
            self.find(seq, "gap", f"entry {self.seq} is followed by {seq}")
            self.tree = None  # no root can be computed over a gap
        elif previous != self.tip:
            self.find(seq, "chain", "does not follow the entry before it")
        if leaf != stored:
            self.find(seq, "payload", "the text is not the one that was hashed")
            leaf = stored if entry_hash(previous, seq, stored) == entry else leaf
        elif entry_hash(previous, seq, leaf) != entry:
            self.find(seq, "chain", "the entry's own hash is wrong")
        return leaf, entry

    def read(self, payload: Any, row: list[Any]) -> None:
        """Compare the columns with the payload, and follow what the payload says of the log."""
        seq, action, ts, context = row[0], payload["action"], payload["ts"], payload["context"]
        result = payload.get("result")
        said = [
            *(payload["seq"], payload["event_id"], ts, payload["epoch"], action),
            *(payload["outcome"], payload["description"], payload["actor"]["id"]),
            *(payload["model_version_id"], result["id"] if result else None),
        ]
        if said != row[:10] or ((context or row[10] != "{}") and json.loads(row[10]) != context):
            shown = [*row[:10], json.loads(row[10])]
            pairs = zip(NAMES, [*said, context], shown, strict=False)
            wrong = ", ".join(name for name, there, here in pairs if there != here)
            self.find(seq, "column", f"not what the entry says: {wrong}")
        if ts < self.ts:
            back = datetime.fromisoformat(self.ts) - datetime.fromisoformat(ts)
            if action in {"log.clock_step", "log.recovery"} and context["last"] == self.ts:
                self.clock_steps.append(seq)
            elif back > CLOCK_TOLERANCE:
                self.find(seq, "clock", f"time went back by {back}")
        if payload["epoch"] < self.epoch:
            self.find(seq, "epoch", f"written in epoch {payload['epoch']}, after {self.epoch}")
        if seq == 1 and (action != "log.genesis" or context["origin"] != self.origin):
            self.find(1, "genesis", "the first entry does not begin this log")
        if action == "key.rotated":
            self.rotate(seq, context["note"])
        if action == "log.recovery":
            self.recover(seq, ts, context, previous=row[11])
        self.ts, self.epoch = ts, payload["epoch"]
        self.awaited = result["record_hash"] if result and self.records else ""

    def recover(self, seq: int, ts: str, context: dict[str, Any], *, previous: str) -> None:
        """Entry `seq` gives up the entries of an anchored head that is longer than the log was."""
        size, lost_size, root = context["size"], context["lost_size"], context["lost_root"]
        accepted_by = [context["requested_by"], context["approved_by"]]
        if [size, context["tip"]] != [seq - 1, previous]:
            self.find(seq, "recovery", "it names another end of the log than the entry before it")
        elif not 0 < lost_size - size == context["lost"]:
            self.find(seq, "recovery", "it gives up no entries, or not as many as it says")
        elif accepted_by[0] == accepted_by[1]:
            self.find(seq, "recovery", "one person alone gave the entries up")
        else:
            gap = {
                "seq": seq,
                "first_lost": seq,
                "last_lost": lost_size,
                "anchored_at": context["lost_at"] or None,
                "accepted_by": accepted_by,
                "accepted_at": ts,
                "reason": context["reason"],
                "lost_root": bytes.fromhex(root).hex(),
            }
            self.recovered.append(gap)
            self.lose(gap)

    def lose(self, gap: dict[str, Any], *, verified: bool = False) -> None:
        """Pass over the anchors that were given up: from the first beyond the log to the named one.

        After a second restore the line of an earlier recovery may be among them, so sizes may fall.
        """
        seq, first = gap["seq"], gap["first_lost"]
        root = base64.b64encode(bytes.fromhex(gap["lost_root"])).decode()
        named, largest = [str(gap["last_lost"]), root], 0
        while self.anchor is not None and (self.anchor[0] >= first or not largest):
            size, note, goes_back = self.anchor
            if goes_back and self.is_here(note):
                break
            self.anchor = next(self.coming, None)
            if size < first:
                continue
            largest = max(largest, size)
            signed = verified or self.is_signed(note, size)
            if signed and note.split("\n")[1:3] == named:
                self.given_up[seq] = largest
                self.go_back(seq)
                return
        if self.anchor is not None:
            self.find(seq, "recovery", "it gives up a head that was not anchored")
            self.go_back(seq)
        elif self.has_anchors:
            self.doubts.add(f"entry {seq} gives up a head that is newer than the anchors")

    def go_back(self, seq: int) -> None:
        """The next anchor may go back by the word of entry `seq`, if it was signed with it.

        That it goes back is signed by nobody: who has no key can repeat an older anchor.
        """
        if self.anchor is not None and self.anchor[2]:
            size, note, _ = self.anchor
            if size < seq:
                self.find(seq, "recovery", f"the anchor of {size} entries was signed before it")
            self.anchor = (size, note, False)

    def is_here(self, note: str) -> bool:
        """Whether a checkpoint is of the log as it is now."""
        if self.tree is None or not self.seq:
            return False
        return note.split("\n")[1:3] == [
            str(self.seq),
            base64.b64encode(self.tree.root()).decode(),
        ]

    def is_signed(self, note: str, size: int) -> bool:
        """Whether the log's key has signed this head; says so where not."""
        try:
            head_of(note, self.keys)
        except InvalidSignature:
            self.find(size, "signature", "a checkpoint is not signed by the log's key")
        except Unverifiable as doubt:
            self.doubts.add(str(doubt))
        else:
            return True
        return False

    def rotate(self, seq: int, note: str) -> None:
        """From entry `seq` on, the key that is named here signs for the log: both have signed that.

        The new key too, or a log made up could end with a change to a key that never saw it.
        """
        old, new = note.split("\n")[1:3]
        given = {key.vkey: key for key in self.keys}
        unknown = old not in given and new in given
        signers = [key for key in self.keys if key.vkey == old and key.signs_for(seq)]
        statement = f"medaiflow/audit/key-rotation/v1\n{old}\n{new}\n"
        try:
            named = opened(note, [Key(new)])[0] == statement and Key(new).name == self.origin
            named = named and (unknown or opened(note, signers)[0] == statement)
        except (InvalidSignature, Unverifiable):
            named = False
        if not named:
            self.find(seq, "signature", "the change of key is not signed by both keys")
            return
        if unknown:
            self.doubts.add(f"the key before entry {seq} was not given")
        else:
            given[old].last = seq - 1
        self.keys = [*(key for key in self.keys if key.vkey != new), Key(new, seq)]

    def record(self, line: str) -> None:
        text = line[10 : line.rindex(',"seq":')]
        if self.awaited and sha256(b"medaiflow/record/v1\n" + text.encode()).hex() != self.awaited:
            self.find(self.seq, "record", "the stored result is not the one that was recorded")
        self.awaited = ""

    def expect_no_record(self) -> None:
        if self.awaited:
            self.find(self.seq, "record", "the stored result is gone")
            self.awaited = ""

    def stored_head(self, line: str) -> None:
        stored = json.loads(line)
        note = stored["checkpoint"]
        root = base64.b64encode(bytes.fromhex(stored["root"])).decode()
        if note.split("\n")[1:3] != [str(stored["size"]), root]:
            self.find(stored["size"], "column", "size or root is not what the checkpoint says")
        size = size_of(note)
        if size == self.seq > 0:
            self.check_head(note, "checkpoint")
        elif size > self.seq:
            self.heads.setdefault(size, []).append(note)
        elif size > self.known or size == 0:
            self.find(size, "signature", "a checkpoint is out of order or has no size")

    def check_head(self, note: str, source: str) -> None:
        """Compare a checkpoint with the tree over the entries so far."""
        try:
            size, root, time = head_of(note, self.keys)
        except InvalidSignature:
            self.find(self.seq, "signature", "a checkpoint is not signed by the log's key")
        except Unverifiable as doubt:
            self.doubts.add(str(doubt))
        else:
            if self.tree is None:
                return
            if root != self.tree.root():
                first = max(self.signed.values()) + 1
                self.find(
                    first, "root", f"entries {first} to {size} are not those that were signed"
                )
                self.tree = None  # every later root differs, too
                return
            self.signed[source], self.signed_at = size, time

    def finish(self, expected: int, there: int) -> None:
        """At the end of the export: what was signed or verified before, and is not there?"""
        stored = [(size, note) for size, notes in self.heads.items() for note in notes]
        anchored = [self.anchor, *self.coming] if self.anchor is not None else []
        for size, note in (*stored, *((size, note) for size, note, _ in anchored)):
            if self.is_signed(note, size):
                expected = max(expected, size)
        for gap in self.recovered:
            seq, largest = gap["seq"], max(gap["last_lost"], self.given_up.get(gap["seq"], 0))
            if seq > max(self.signed.values()):  # whoever has the database can write it
                expected = max(expected, largest)
                if largest <= self.seq:
                    self.find(seq, "recovery", "no signed checkpoint confirms it")
            elif seq in self.given_up and seq > self.signed["anchor"]:  # and a thief can sign it
                self.doubts.add(f"no anchor confirms entry {seq}, which gives up anchored entries")
        self.missing = max(0, expected - self.seq, self.start - there)
        if not self.missing:  # else the export may have been cut between an entry and its record
            self.expect_no_record()
        if not any(self.signed.values()):
            self.doubts.add("there is no checkpoint that the key has signed")

    @property
    def verdict(self) -> int:
        if self.findings:
            return TAMPERED
        return TRUNCATED if self.missing else UNVERIFIABLE if self.doubts else OK

    def report(self) -> dict[str, Any]:
        return {
            "result": VERDICTS[self.verdict],
            "log": self.origin,
            "entries": self.seq,
            "checked_from": self.start + 1,
            "last_checkpoint": self.signed["checkpoint"],
            "last_anchor": self.signed["anchor"],
            "last_signed_at": self.signed_at.isoformat() if self.signed_at else None,
            "not_yet_signed": self.seq - max(self.signed.values()),
            "missing": self.missing,
            "clock_steps": self.clock_steps,
            "recovered": self.recovered,
            "doubts": sorted(self.doubts),
            "findings": self.findings[:100],
            "finding_count": len(self.findings),
        }


def parts(line: str) -> tuple[str, Any, list[Any]]:
    """The exact text of the payload, the payload, and the columns beside it."""
    try:
        payload, end = _DECODE(line, 11)
        if line.startswith(',"row":', end):
            row = _DECODE(line, end + 7)[0]
            # A payload that is no JSON object on one line stands there as a string.
            return (payload if isinstance(payload, str) else line[11:end]), payload, row
    except (ValueError, RecursionError):
        pass
    start = line.rindex(',"row":')
    return line[11:start], None, _DECODE(line, start + 7)[0]


def canonical(value: object) -> bytes:
    """The one JSON text of a payload or a record (RFC 8785: neither holds a float)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no name may come twice: who reads it might see the other value."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name comes twice")
    return dict(pairs)


def check_evidence(document: Any, keys: list[Key]) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with the evidence of a result or an entry, or else the facts that it proves.

    Nothing in the document is left out of the check, so nothing in it can be changed unnoticed.
    """
    try:
        if document["format"] != "medaiflow/evidence/v1":
            raise Unverifiable("this is an evidence record of another version")
        note = document["checkpoint"]
        size, root, time = head_of(note, keys)
        wrong = list(check_bindings(document))
        if not has_only_known_parts(document):
            wrong.append("there is more in it than can be checked")
        if time is None or note.count("\N{EM DASH}") != 2:  # noqa: PLR2004  # ours are two
            wrong.append("checkpoint: a signature is missing, or there is one more")
        for name in ("entry", "registration"):
            proven = document[name]
            if proven is None and name == "registration":
                continue
            leaf = sha256(_LEAF + canonical(proven["payload"]))
            proof = map(base64_bytes, proven["proof"])
            if root_of_proof(leaf, proven["payload"]["seq"] - 1, size, proof) != root:
                wrong.append(f"{name}: the log that was signed does not hold it")
        return wrong, {} if wrong else facts(document, time)
    except InvalidSignature:
        return ["checkpoint: not signed by the log's key"], {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unverifiable("the evidence cannot be read") from None


def has_only_known_parts(document: dict[str, Any]) -> bool:
    known = {"format", "checkpoint", "entry", "record", "registration", "card", "subject"}
    proven, opening = {"payload", "proof"}, {"salt", "patient_id"}
    parts_of = {"entry": proven, "registration": proven, "subject": opening}
    return set(document) == known and all(
        document[name] is None or set(document[name]) == names for name, names in parts_of.items()
    )


def check_bindings(document: dict[str, Any]) -> Iterator[str]:
    """Whether record, patient and card are those that the entries name."""
    payload, registration = document["entry"]["payload"], document["registration"]
    record, card, subject = document["record"], document["card"], document["subject"]
    if record is not None:
        digest = sha256(b"medaiflow/record/v1\n" + canonical(record)).hex()
        if digest != payload["result"]["record_hash"]:
            yield "record: not the one that was recorded"
        if record["subject_commit"] != payload["subject_commit"]:
            yield "record: of another patient"
    if subject is not None:
        salt = bytes.fromhex(subject["salt"])
        opening = b"medaiflow/phi/v1\n" + salt + canonical({"patient_id": subject["patient_id"]})
        if sha256(opening).hex() != payload["subject_commit"] or salt.hex() != subject["salt"]:
            yield "subject: not the patient that was committed to"
    if registration is not None:
        changes = registration["payload"]["changes"]
        made = [change for change in changes if change["kind"] == "new_model_version"]
        if [change["model"] for change in made] != [payload["result"]["model"]]:
            yield "registration: of another model version"
        elif made[0]["card_sha256"] != sha256(card.encode()).hex():
            yield "card: not the one that was registered"
    elif card is not None:
        yield "card: no entry vouches for it"


def facts(document: dict[str, Any], time: datetime | None) -> dict[str, Any]:
    """What the evidence proves, for people to read. Every value was checked."""
    payload, record, card = document["entry"]["payload"], document["record"], document["card"]
    origin, size, *_ = document["checkpoint"].split("\n")
    proven = {name: payload[name] for name in ("action", "outcome", "description", "context")}
    result = payload.get("result") or {}
    proven |= {f"result_{name}" if name == "id" else name: result[name] for name in result}
    if record is not None:
        validation = record["validation"]
        proven["image"] = json.loads(record["result"]["image_facts"])
        proven["measurements"] = json.loads(validation["measurements"]) if validation else None
    if card is not None:
        proven["preprocessing"] = json.loads(card).get("input")
    return proven | {
        "user": payload["actor"],
        "software": payload["software"],
        "recorded_at": payload["ts"],
        "proof": f"entry {payload['seq']} of the first {size} of {origin}, signed {time}",
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    options = parser().parse_args(arguments)
    try:
        keys = [Key(vkey.strip()) for vkey in options.vkey]
        report = (verify_log if options.command == "log" else verify_evidence)(options, keys)
    except Unverifiable as doubt:
        report = {"result": "UNVERIFIABLE", "doubts": [str(doubt)]}
    except OSError as error:
        sys.stderr.write(f"medai-verify: {error.filename}: {error.strerror}\n")
        return USAGE
    if options.json:
        sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    else:
        for name, value in report.items():
            for item in value if isinstance(value, list) and value else [value]:
                sys.stdout.write(f"{name.replace('_', ' '):>16}  {shown(item)}\n")
    return VERDICTS.index(report["result"])


def shown(item: Any) -> str:
    """One line for people. What is in a file must not write on their terminal."""
    if isinstance(item, dict) and "kind" in item and "seq" in item:
        item = f"entry {item['seq']}: {item['kind']}: {item['message']}"
    elif isinstance(item, dict) and "last_lost" in item:
        one, other = item["accepted_by"]
        item = (
            f"entries {item['first_lost']}-{item['last_lost']} are lost; accepted by {one} and"
            f" {other} on {item['accepted_at']} (entry {item['seq']})"
        )
    text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(item)


def verify_log(options: argparse.Namespace, keys: list[Key]) -> dict[str, Any]:
    """Verify exports, with their anchors, from the beginning or from a state."""
    check = LogCheck(keys, read_json(options.from_state) if options.from_state else None)
    with options.anchors.open("rb") if options.anchors else nullcontext(()) as anchors:
        check.exports(read_exports(options.export), anchors)
    if check.verdict == OK and options.save_state is not None:
        options.save_state.write_text(json.dumps(check.state()) + "\n", "utf-8")
    return check.report()


def read_exports(paths: Iterable[Path]) -> Iterator[Iterator[str]]:
    """Each file in turn, open while it is read."""
    for path in paths:
        with path.open(encoding="utf-8", newline="\n") as lines:
            yield lines


def verify_evidence(options: argparse.Namespace, keys: list[Key]) -> dict[str, Any]:
    """Verify the evidence of one result."""
    wrong, proven = check_evidence(read_json(options.file), keys)
    return {"result": VERDICTS[TAMPERED if wrong else OK], "findings": wrong, **proven}


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Unverifiable("a file is not JSON, or names something twice") from None


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"medai-verify: {message}; see --help\n")


def parser() -> argparse.ArgumentParser:
    root = Parser(
        prog="medai-verify",
        fromfile_prefix_chars="@",
        description="Verify MedAI Flow's audit log, or the evidence of one result, offline.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(dest="command", required=True, parser_class=Parser)
    log = commands.add_parser("log", help="verify exports of the log")
    log.add_argument(
        "export",
        type=Path,
        metavar="EXPORT",
        nargs="+",
        help="an export, JSON lines; several that continue each other, oldest first",
    )
    log.add_argument("--anchors", type=Path, metavar="FILE", help="the file of anchors")
    log.add_argument("--from-state", type=Path, metavar="FILE", help="go on from here")
    log.add_argument("--save-state", type=Path, metavar="FILE", help="where to go on next time")
    evidence = commands.add_parser("evidence", help="verify the evidence of one result")
    evidence.add_argument("file", type=Path, metavar="FILE", help="the evidence record")
    for command in (log, evidence):
        command.add_argument("--vkey", action="append", required=True, help="the log's public key")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return root


if __name__ == "__main__":
    sys.exit(main())
