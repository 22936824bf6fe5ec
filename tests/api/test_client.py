"""The typed client and `medai infer`, against the whole application."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints, is_typeddict
from uuid import UUID

import httpx2
import pytest
import typer
from pydantic import BaseModel

from configs.settings import LimitSettings
from deployments import client as client_module
from deployments import client_answers, commands_infer
from deployments.api import answers, batch, models, pages, problems, result_list
from deployments.client import Client, Problem, Unreachable, batches
from registry.contract import Outcome, Upload, Verdict
from registry.errors import UndecodableImage
from registry.events import AuditAction
from tests.api.house import PASSWORD, House
from tests.api.scripted import facts, predicted

T = TypeVar("T")
BAD = b"\xff\xd8\xffbad"
INFERENCES = (AuditAction.INFERENCE, AuditAction.INFERENCE_REJECTED)


class Bridge(httpx2.BaseTransport):
    """Takes a blocking client's requests to an application that runs in a loop."""

    def __init__(self, house: House) -> None:
        self.requests: list[httpx2.Request] = []
        self._app = httpx2.ASGITransport(house.app)
        self._loop = asyncio.get_running_loop()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return asyncio.run_coroutine_threadsafe(self._answer(request), self._loop).result(30)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._app.handle_async_request(request)
        return httpx2.Response(
            response.status_code, headers=response.headers, content=await response.aread()
        )


class Bridged(Client):
    """A client of the house."""

    bridge: Bridge

    def __init__(self, url: str, token: str | None = None) -> None:
        super().__init__("http://medai.test", token)
        self._http.close()
        self._http = httpx2.Client(
            base_url=url, headers=self._http.headers, transport=self.bridge, timeout=30
        )


Run = Callable[[Callable[[Client], T]], Awaitable[T]]


@pytest.fixture
async def bridge(house: House) -> Bridge:
    made = Bridge(house)
    Bridged.bridge = made
    return made


@pytest.fixture
def run(house: House, bridge: Bridge) -> Run[Any]:
    """Runs something blocking with a client of clara's, beside the application."""
    assert Bridged.bridge is bridge

    async def running(work: Callable[[Client], T]) -> T:
        def blocking() -> T:
            with Bridged("http://medai.test", house.token("clara")) as client:
                return work(client)

        return await asyncio.to_thread(blocking)

    return running


def films(directory: Path, count: int, suffix: str = ".jpg") -> list[Path]:
    """So many small images, each of another content."""
    made = [directory / f"DOE-{number}{suffix}" for number in range(count)]
    for number, file in enumerate(made):
        file.write_bytes(b"\xff\xd8\xff" + str(number).encode())
    return made


def by_body(upload: Upload) -> Verdict:
    if upload.body != BAD:
        return predicted(upload)
    return Verdict(Outcome.REJECTED, facts(upload), error=UndecodableImage("cut short"))


async def test_one_image_is_answered(house: House, run: Run[Any], tmp_path: Path) -> None:
    (film,) = films(tmp_path, 1)

    plain = await run(lambda client: client.infer(film, model="cxr-pneumonia"))
    with_patient = await run(
        lambda client: client.infer(film, model="cxr-pneumonia", patient_id="4711", frame=1)
    )

    assert (plain["outcome"], plain["patient"]) == ("predicted", None)
    assert with_patient["patient"].startswith("p1:")
    assert [upload.frame for upload in house.screening.uploads] == [None, 1]


async def test_a_file_without_a_known_ending_is_looked_at_by_the_server(
    run: Run[Any], tmp_path: Path
) -> None:
    (film,) = films(tmp_path, 1, suffix="")

    answer = await run(lambda client: client.infer(film, model="cxr-pneumonia"))
    (item,) = await run(lambda client: list(client.infer_batch([film], model="cxr-pneumonia")))

    assert answer["outcome"] == item["result"]["outcome"] == "predicted"


async def test_a_key_makes_two_requests_one(run: Run[Any], tmp_path: Path) -> None:
    few = films(tmp_path, 3)

    def twice(client: Client) -> Any:
        return [
            (
                client.infer(few[0], model="cxr-pneumonia", idempotency_key="k")["result_id"],
                [
                    item["result"] and item["result"]["result_id"]
                    for item in client.infer_batch(few, model="cxr-pneumonia", idempotency_key="k")
                ],
            )
            for _ in range(2)
        ]

    first, second = await run(twice)

    assert first == second


async def test_many_images_go_in_batches_and_come_back_in_order(
    house: House, run: Run[Any], bridge: Bridge, tmp_path: Path
) -> None:
    house.screening.verdict = by_body
    many = films(tmp_path, 230)
    many[150].write_bytes(BAD)

    items = await run(lambda client: list(client.infer_batch(many, model="cxr-pneumonia")))

    assert len(bridge.requests) == 3
    assert [item["index"] for item in items] == list(range(230))
    assert [item["status"] for item in items] == [422 if n == 150 else 200 for n in range(230)]
    assert sorted(upload.body for upload in house.screening.uploads) == sorted(
        file.read_bytes() for file in many
    )


async def test_no_file_s_name_leaves_the_machine(
    run: Run[Any], bridge: Bridge, tmp_path: Path
) -> None:
    few = films(tmp_path, 2)

    await run(lambda client: list(client.infer_batch(few, model="cxr-pneumonia")))
    await run(lambda client: client.infer(few[0], model="cxr-pneumonia", patient_id="1"))

    assert all(b"DOE" not in request.content for request in bridge.requests)


async def test_a_server_that_takes_less_gets_smaller_batches(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    house = await build(limits=LimitSettings(max_body_bytes=1024))  # a batch: 4 (1 + 16) KiB
    Bridged.bridge = Bridge(house)
    many = films(tmp_path, 9)
    for file in many:
        file.write_bytes(b"\xff\xd8\xff" + b"x" * 1000)
    many[4].write_bytes(b"\xff\xd8\xff" + b"x" * 80_000)

    def ask() -> Any:
        with Bridged("http://medai.test", house.token("clara")) as client:
            return list(client.infer_batch(many[:4], model="cxr-pneumonia")), [
                *_until_problem(client.infer_batch(many, model="cxr-pneumonia"))
            ]

    fits, cut = await asyncio.to_thread(ask)

    assert [item["status"] for item in fits] == [200] * 4
    assert [item if isinstance(item, int) else item["index"] for item in cut] == [0, 1, 2, 3, 413]


def _until_problem(items: Any) -> Any:
    try:
        yield from items
    except Problem as problem:
        yield problem.status


async def test_batches_are_bounded_by_number_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BATCH_BYTES", 10)
    monkeypatch.setattr(client_module, "BATCH_IMAGES", 3)
    sizes = (5, 5, 1, 20, 1, 1, 1, 1)
    files = [tmp_path / str(number) for number in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(b"x" * size)

    made = batches(files)

    assert [[int(file.name) for file in one] for one in made] == [[0, 1], [2], [3], [4, 5, 6], [7]]
    assert batches([]) == []


async def test_results_and_models_are_read(house: House, run: Run[Any], tmp_path: Path) -> None:
    few = films(tmp_path, 3)
    await run(lambda client: list(client.infer_batch(few, model="cxr-pneumonia")))
    now = datetime.now(UTC)

    first = await run(
        lambda client: client.results(
            size=2,
            model_id="cxr-pneumonia",
            needs_review=True,
            since=now - timedelta(hours=1),
            until=now + timedelta(hours=1),
            created_by=house.users["clara"],
        )
    )
    rest = await run(lambda client: client.results(after=UUID(first["items"][-1]["result_id"])))
    second = await run(lambda client: client.results(page=2, size=2))
    active = await run(lambda client: client.models(status="active"))
    versions = await run(lambda client: client.models(page=2, size=2))

    assert (len(first["items"]), first["total"]) == (2, 3)
    assert [item["result_id"] for item in rest["items"]] == [
        item["result_id"] for item in second["items"]
    ]
    assert [item["name"] for item in active["items"]] == ["cxr-pneumonia"]
    assert (versions["total"], len(versions["items"])) == (3, 1)


async def test_a_refusal_is_a_problem_with_its_rules(run: Run[Any]) -> None:
    with pytest.raises(Problem, match=r"422 .*query\.size"):
        await run(lambda client: client.results(size=1000))


PAIRS = (
    (client_answers.Inference, answers.InferenceDetails),
    (client_answers.BatchItem, batch.BatchItem),
    (client_answers.ProblemDocument, problems.ProblemDetails),
    (client_answers.ResultPage, result_list.ResultPage),
    (client_answers.ModelPage, models.ModelPage),
    (client_answers.Links, pages.Links),
)


@pytest.mark.parametrize(("typed", "schema"), PAIRS, ids=lambda value: value.__name__)
def test_the_client_s_types_are_the_server_s_schemas(typed: type, schema: type[BaseModel]) -> None:
    assert differences(typed, schema) == []


def differences(typed: type, schema: type[BaseModel]) -> list[str]:
    """Where a client's type and a schema disagree: fields, or whether null may stand there."""
    hints = get_type_hints(typed)
    found = [f"{typed.__name__}: {hints.keys() ^ schema.model_fields.keys()}"]
    found = found if hints.keys() != schema.model_fields.keys() else []
    for name in hints.keys() & schema.model_fields.keys():
        theirs = schema.model_fields[name].annotation
        if (type(None) in get_args(hints[name])) != (type(None) in get_args(theirs)):
            found.append(f"{typed.__name__}.{name}: null")
        ours = [one for one in (hints[name], *get_args(hints[name])) if is_typeddict(one)]
        schemas = [
            one
            for one in (theirs, *get_args(theirs))
            if isinstance(one, type) and issubclass(one, BaseModel)
        ]
        assert len(ours) == len(schemas), name
        for inner, its in zip(ours, schemas, strict=True):
            found += differences(inner, its)
    return found


@pytest.fixture
def infer(
    bridge: Bridge,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Awaitable[tuple[int, str]]]:
    """`medai infer` as clara; gives its exit code and what it printed."""
    assert Bridged.bridge is bridge
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path))
    monkeypatch.setattr(commands_infer, "Client", Bridged)

    async def command(files: list[Path], *, as_json: bool = True, **options: Any) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
        with pytest.raises(typer.Exit) as ended:
            await asyncio.to_thread(
                lambda: commands_infer.infer(
                    files,
                    **{
                        "model": "cxr-pneumonia",
                        "user": "clara",
                        "url": "http://medai.test",
                        "password_stdin": True,
                        "as_json": as_json,
                        **options,
                    },
                )
            )
        return ended.value.exit_code, capsys.readouterr().out

    return command


async def test_many_files_are_one_batch_and_one_line_each(
    house: House, infer: Any, bridge: Bridge, tmp_path: Path
) -> None:
    house.screening.verdict = by_body
    many = films(tmp_path, 12)
    many[3].write_bytes(BAD)

    code, out = await infer(many)

    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["file"] for line in lines] == [file.name for file in many]
    assert [line.get("outcome") for line in lines] == [
        None if n == 3 else "predicted" for n in range(12)
    ]
    assert lines[3]["type"].endswith("/undecodable-image")
    paths = [request.url.path for request in bridge.requests]
    assert paths == ["/auth/login", "/infer/batch", "/auth/logout"]


async def test_one_file_is_no_batch_and_a_person_reads_the_answer(
    infer: Any, bridge: Bridge, tmp_path: Path
) -> None:
    code, out = await infer(films(tmp_path, 1), as_json=False)

    assert (code, out) == (0, "DOE-0.jpg: predicted: PNEUMONIA 0.750  needs review\n")
    assert bridge.requests[1].url.path == "/infer"


async def test_a_batch_that_is_refused_is_told_of_each_of_its_files(
    infer: Any, tmp_path: Path
) -> None:
    code, out = await infer(films(tmp_path, 2), model="none", as_json=False)

    assert code == 1
    assert [line.split(":")[1] for line in out.splitlines()] == [" refused", " refused"]


async def test_a_server_that_is_not_there_has_an_exit_code_of_its_own(
    infer: Any, bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: httpx2.Request) -> httpx2.Response:
        raise Unreachable("nobody")

    monkeypatch.setattr(bridge, "handle_request", away)

    code, _ = await infer(films(tmp_path, 2))

    assert code == 3
