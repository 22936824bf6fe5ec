"""Canaries: what a patient is called must not come out anywhere but where it was sent."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import errors
from tests.api.house import INFER, House
from tests.api.scripted import refused

CANARY = "ZZCANARY"
NAME = f"{CANARY}^JOHN"


async def provoke(house: House) -> list[str]:
    """Put canaries into every field there is, on ways that succeed and that fail."""
    client = house.client("clara")
    image = {"Content-Type": "image/jpeg"}
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    file = {"file": (NAME, b"x", "image/png")}
    bodies = []
    for method, path, options in (
        ("POST", INFER, {"content": NAME.encode(), "headers": image}),
        ("POST", f"/infer?model={NAME}", {"content": b"x", "headers": image}),
        ("POST", f"{INFER}&frame={NAME}", {"content": b"x", "headers": image}),
        ("POST", INFER, {"content": b"x", "headers": {"Content-Type": f"image/{NAME}"}}),
        ("POST", INFER, {"files": {NAME: (NAME, NAME.encode(), NAME)}}),
        (
            "POST",
            INFER,
            {"files": file, "data": {"patient_id": NAME}},
        ),
        ("POST", INFER, {"files": file, "data": {NAME: NAME}}),
        (
            "POST",
            INFER,
            {"content": NAME, "headers": form},
        ),
        ("GET", f"/results/{NAME}", {}),
        ("GET", f"/models/{NAME}", {}),
        ("GET", f"/models?page={NAME}", {}),
        ("GET", f"/{NAME}", {}),
        (CANARY, "/models", {}),
        ("GET", "/models", {"headers": {"Authorization": f"Bearer {NAME}"}}),
        ("GET", "/models", {"headers": {"x-request-id": NAME, NAME.replace("^", "-"): NAME}}),
        ("POST", "/auth/login", {"data": {"username": NAME, "password": NAME}}),
        ("POST", "/auth/login", {"data": {NAME: NAME}}),
        ("POST", "/auth/login", {"content": NAME, "headers": {"Content-Type": NAME}}),
    ):
        response = await client.request(method, path, **options)
        bodies.append(f"{dict(response.headers)} {response.text}")
    return bodies


def broken(*_: Any) -> Any:
    raise ValueError(NAME)


async def test_no_canary_comes_out(
    house: House,
    tmp_path: Path,
    lines: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies = await provoke(house)
    house.screening.verdict = refused(errors.UndecodableImage("cut short"))
    bodies += await provoke(house)
    monkeypatch.setattr(house.services.inference, "infer", broken)
    bodies += await provoke(house)

    written = lines()
    assert [body for body in bodies if CANARY in body] == []
    assert CANARY not in json.dumps(written)
    assert len([line for line in written if line["event"] == "request"]) == len(bodies)
    assert [line for line in written if "dropped_keys" in line] == []
    with sqlite3.connect(tmp_path / "medai.db") as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert CANARY not in dump
    assert CANARY.encode().hex() not in dump.lower()
