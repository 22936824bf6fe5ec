"""What people write by hand: FastAPI, uvicorn and ONNX Runtime, with nothing around it.

No authentication, no validation, no audit; no size limit either. Tuned as far as it goes: the raw
body instead of a form, orjson, uvloop and httptools, no access log, a plain Starlette response, one
process a core. The work is done in the event loop: a worker thread costs 10 % more CPU.
"""

import os
import sys
from pathlib import Path

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.classifier import Classifier
from benchmarks.tuning import BARE_MODEL


def create_app() -> FastAPI:
    """One worker process's application. The model's folder comes by the environment."""
    classifier = Classifier.load(Path(os.environ[BARE_MODEL]))
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> Response:
        tensor = classifier.normalise(classifier.decode(await request.body()))
        answer = classifier.answer(classifier.scores(tensor)[0])
        return Response(orjson.dumps(answer), media_type="application/json")

    @app.get("/health")
    async def health() -> Response:
        return Response(b"{}", media_type="application/json")

    return app


def main(port: int, workers: int) -> None:
    """Serve until SIGTERM."""
    uvicorn.run(
        "benchmarks.bare_server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
