"""The labels of the instruments with their bounds, and the bounds of the histograms' buckets.

A label's values are a fixed list where there is one; else so many may be told apart and the rest
are "other". Text that a caller can choose, such as a scanner's name from a header, must come ten
times before it is shown.
"""

from typing import Final

from deployments.telemetry.metrics_values import Label, upper
from registry.card import SCORE_BOUNDS
from registry.contract import Outcome, Reason
from registry.errors import leaves
from registry.events import AuditAction

SECONDS: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0
)  # fmt: skip
LONG_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
BYTES: Final = tuple(float(4**power * 1024) for power in range(1, 9))  # 4 KiB to 64 MiB
RATIOS: Final = SCORE_BOUNDS

PHASES: Final = (
    "auth", "queue", "decode", "validate", "preprocess", "model", "batch_wait", "inference",
    "audit", "total",
)  # fmt: skip
REQUEST_OUTCOMES: Final = ("ok", "refused", "failed", "abandoned")
LOGIN_RESULTS: Final = ("ok", "unknown", "wrong", "locked", "disabled")

AUDIT_CAUSES: Final = ("refused", "unavailable")
# Why a guarded decoder ended: the clock; a crash, or memory; with its server, which somebody ended;
# given up by us; or a file that was taken for a small one begins again among the slow.
DECODER_CAUSES: Final = ("time", "crash", "server", "silent", "not_soon")

ROUTE = Label("route", limit=64)  # templates, never paths
METHOD = Label("method", frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}))
STATUS = Label("status", limit=40)
REQUEST_OUTCOME = Label("outcome", frozenset((*Outcome, *REQUEST_OUTCOMES)))
OUTCOME = Label("outcome", frozenset(Outcome))
PROBLEM = Label("code", frozenset(leaf.code for leaf in leaves()))
MODEL = Label("model", limit=16)
VERSION = Label("version", limit=32)
CLASS = Label("label", limit=64)
PHASE = Label("phase", frozenset(PHASES))
REASON = Label("reason", frozenset(Reason))
RULE = Label("code", limit=64)  # of a broken rule, such as LOW_BRIGHTNESS
SCANNER = Label("scanner", limit=40, after=10)  # the header's text: anybody may write it
FORMAT = Label("format", frozenset({"JPEG", "PNG", "DICOM"}))
VALID = Label("valid", frozenset({"true", "false"}))
LOGIN = Label("result", frozenset(LOGIN_RESULTS))
REFUSAL = Label("reason", limit=16)
LIMIT = Label("limit", limit=8)
QUEUE = Label("queue", limit=8)
ACTION = Label("action", frozenset(AuditAction))
AUDIT_CAUSE = Label("reason", frozenset(AUDIT_CAUSES))
DECODER_CAUSE = Label("reason", frozenset(DECODER_CAUSES))
ANSWERED = Label("answered", limit=64)  # a decision: a label, or BELOW_THRESHOLD
CHALLENGER = Label("challenger", limit=64)
MISSED = Label("reason", frozenset({"dropped", "failed"}))
AGREES = Label("agrees", frozenset({"true", "false"}))
RESULT = Label("result", frozenset({"passed", "failed"}))
STATE = Label("state", frozenset({"in_use", "idle"}))
COMPONENT = Label("component", limit=16)  # as in the log lines: gateway, model:<name>, ...
UPPER = Label("upto", frozenset(map(upper, RATIOS)))
SHA256 = Label("sha256", limit=32)
SOFTWARE = Label("version", limit=4)
PYTHON = Label("python", limit=4)
