"""LitServe with dynamic batching, tuned as far as it goes.

What was tried is in docs/performance.md; `tuning.LITSERVE` holds the best. The raw body
goes to the worker through FastAPI's own dependency, because LitServe's default parses JSON or a
form; the answer is a ready response, so that FastAPI does not serialise it again.
"""

import sys
from pathlib import Path
from typing import Annotated

import litserve
import numpy as np
import orjson
from fastapi import Depends, Request, Response
from numpy.typing import NDArray

from benchmarks.classifier import Classifier
from benchmarks.tuning import LitServe


async def _raw_body(request: Request) -> bytes:
    return await request.body()


class Api(litserve.LitAPI):  # type: ignore[misc,unused-ignore]  # litserve has no types of its own
    """Decode, stack, run, answer."""

    def __init__(self, folder: Path, **switches: object) -> None:
        super().__init__(**switches)
        self._folder = folder

    def setup(self, device: str) -> None:
        """One session in each worker."""
        del device
        self._classifier = Classifier.load(self._folder)

    def decode_request(self, request: Annotated[bytes, Depends(_raw_body)]) -> NDArray[np.uint8]:
        """Pixels."""
        return self._classifier.decode(request)

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """One array of all."""
        return np.concatenate(inputs)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of the batch."""
        return self._classifier.scores(self._classifier.normalise(x))

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Scores one by one."""
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> Response:
        """JSON."""
        if output.ndim == 2:  # max_batch_size 1: LitServe skips `batch` and `unbatch`
            (output,) = output
        answer = orjson.dumps(self._classifier.answer(output))
        return Response(answer, media_type="application/json")


def main(folder: Path, port: int, tuning: LitServe) -> None:
    """Serve until SIGTERM."""
    api = Api(folder, max_batch_size=tuning.max_batch_size, batch_timeout=tuning.batch_timeout)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=tuning.workers_per_device,
        fast_queue=tuning.fast_queue,
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=tuning.api_servers,
        log_level="warning",
        generate_client_file=False,
        loop="uvloop",
        http="httptools",
        access_log=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), LitServe.of(sys.argv[3:]))
