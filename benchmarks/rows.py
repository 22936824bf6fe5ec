"""What is measured: the rows, and with which models, images and numbers of clients.

Every row gets the same files, the same model and the same ONNX Runtime settings
(`benchmarks.classifier`), one thread a session. A row's server has one model at a time, as LitServe
has; a model of milliseconds gets the sessions that suit the server best, DenseNet-121 two in every
row, one a core.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.densenet import NAME as DENSENET
from benchmarks.film import Picture
from benchmarks.ours import Variant, serving
from benchmarks.peers import bare, litserve
from benchmarks.raw import Work
from benchmarks.service import Service

CXR = "cxr-pneumonia"
CLIENTS = (1, 16, 64)
BOTH = (Picture.SMALL, Picture.LARGE)
SMALL = (Picture.SMALL,)

Start = Callable[[Path, Path], AbstractContextManager[Service]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure's place in the table. `clients` are worker processes in the raw rows."""

    row: str
    model: str
    picture: Picture
    clients: int


@dataclass(frozen=True, slots=True)
class Row:
    """A server under test.

    Attributes:
        name: Its name on the command line and in the table.
        what: What it is, for the reader.
        start: Starts it: the model's folder and a log file in, a running `Service` out.
        pictures: The images by model; a model that is not named is not measured.
        clients: Numbers of clients.
    """

    name: str
    what: str
    start: Start
    pictures: dict[str, tuple[Picture, ...]]
    clients: tuple[int, ...] = CLIENTS

    def cells(self, model: str) -> list[Cell]:
        """What is measured with one model, in order."""
        return [
            Cell(self.name, model, picture, clients)
            for picture in self.pictures.get(model, ())
            for clients in self.clients
        ]


def _ours(variant: Variant, what: str, **pictures: tuple[Picture, ...]) -> Row:
    by_model = {CXR: pictures.get("cxr", SMALL), DENSENET: pictures.get("densenet", ())}
    return Row(variant.name, what, partial(serving, variant), by_model)


NO_GATE = {"gate": None}
UNBATCHED = {"deployments": [{"name": "OnnxModel", "user_config": {"max_batch_size": 1}}]}

FULL = Variant("ours")
POSTGRESQL = Variant("ours-postgresql", postgresql=True)
UNGATED = Variant("ours-no-gate", card=NO_GATE)
NO_BATCHING = Variant("ours-no-batching", card=NO_GATE, serve_config=UNBATCHED)
NO_VALIDATION = Variant(
    "ours-no-validation", card=NO_GATE, builder="benchmarks.without:build_no_validation"
)
NO_AUDIT = Variant("ours-no-audit", card=NO_GATE, builder="benchmarks.without:build_no_audit")
# As many in progress as saturate the service; the rest is refused at once.
ADMISSION = Variant(
    "ours-admission", card=NO_GATE, environment={"MEDAI_LIMITS__MAX_IN_PROGRESS": "64"}
)

ROWS = {
    row.name: row
    for row in (
        Row(
            "bare",
            "FastAPI + uvicorn, 2 processes; no auth, validation, audit",
            bare,
            {CXR: BOTH, DENSENET: BOTH},
        ),
        Row(
            "litserve",
            "LitServe, dynamic batching; no auth, validation, audit",
            litserve,
            {CXR: BOTH, DENSENET: BOTH},
        ),
        _ours(FULL, "full service: auth, validation, gate model, durable audit (SQLite)", cxr=BOTH),
        _ours(POSTGRESQL, "full service on PostgreSQL"),
        _ours(UNGATED, "full service (SQLite), card without gate", cxr=BOTH, densenet=BOTH),
        _ours(NO_BATCHING, "… without gate and dynamic batching"),
        _ours(NO_VALIDATION, "… without gate, measures and rules: decoding and tensor only"),
        _ours(NO_AUDIT, "… without gate; receipts of inferences without a database"),
    )
}

RAW_WORKERS = (1, 2)


def raw_cells(model: str) -> list[tuple[Cell, Work]]:
    """The rows without a server."""
    cells = []
    for work in Work:
        pictures = BOTH if work is Work.DECODE else SMALL
        for picture in pictures:
            cells += [
                (Cell(f"raw-{work}", model, picture, workers), work) for workers in RAW_WORKERS
            ]
    return cells
