"""What becomes of pydicom's and pydicom-data's files, by transfer syntax.

python -m tests.inference.syntax_table
"""

from collections import Counter, defaultdict

from pydicom.uid import UID

from deployments.inference.dicom import TRANSFER_SYNTAXES, transfer_syntax_of
from deployments.inference.image import read
from deployments.inference.signature import DICOM, signature
from registry.errors import Rejected, UndecodableImage, ValidationFailed
from tests.inference.files import LIMITS, dicom_paths, file_facts

UNNAMED = "none is named"
DECODED = "decoded"


def end_of(body: bytes) -> str:
    """`decoded`, or the code that refuses the file; of many frames the first is asked for."""
    media_type = signature(body).media_type
    for frame in (None, 1):
        try:
            read(body, media_type, file_facts(body), limits=LIMITS, frame=frame)
        except ValidationFailed:
            continue
        except Rejected as refusal:
            return f"{refusal.code}: {refusal.detail}"
        return DECODED
    raise AssertionError("the first frame is not there")


def syntax_of(body: bytes) -> str:
    """The UID that the file names."""
    if signature(body).media_type != DICOM:
        return UNNAMED
    try:
        return str(transfer_syntax_of(body))
    except UndecodableImage:
        return UNNAMED


def counted() -> dict[str, Counter[str]]:
    """How each syntax's files end."""
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for path in dicom_paths().values():
        body = path.read_bytes()
        ends[syntax_of(body)][end_of(body)] += 1
    for uid in TRANSFER_SYNTAXES:
        ends.setdefault(str(uid), Counter())
    return dict(ends)


def table() -> str:
    """As Markdown."""
    rows = [
        "| transfer syntax | UID | files | decoded | refused |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    ends = counted()
    for uid in sorted(ends, key=lambda uid: (uid not in TRANSFER_SYNTAXES, uid)):
        counts = ends[uid]
        name = UID(uid).name if uid != UNNAMED else "not DICOM Part 10, or without file meta"
        refused = {end: count for end, count in counts.items() if end != DECODED}
        reasons = "; ".join(f"{count} {end}" for end, count in sorted(refused.items()))
        rows.append(f"| {name} | {uid} | {counts.total()} | {counts[DECODED]} | {reasons or '0'} |")
    total: Counter[str] = sum(ends.values(), Counter())
    refused_total = total.total() - total[DECODED]
    rows.append(f"| all | | {total.total()} | {total[DECODED]} | {refused_total} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())  # noqa: T201  # what it is for
