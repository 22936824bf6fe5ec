"""The limit: ONNX Runtime in a loop, without a server. Batch 1, batch 8, and decoding included.

Each worker is a process of its own (`python -m benchmarks.raw`, a `Task` as JSON on standard
input); all begin at the same moment. Two workers show what both cores give.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from benchmarks.classifier import Classifier
from benchmarks.film import Picture, jpeg
from benchmarks.load import Result
from benchmarks.percentiles import latency
from benchmarks.service import hear

GO_S = 0.2  # from the order to the beginning, so that all workers have it
START_S = 60.0


class Work(StrEnum):
    """What is done in the loop."""

    BATCH_1 = "batch-1"
    BATCH_8 = "batch-8"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one worker. Times in seconds."""

    folder: str
    work: Work
    picture: Picture
    seconds: float


def measure(task: Task, workers: int) -> Result:
    """Images a second of `workers` processes together; latencies are those of single calls."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.raw"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(workers)
    ]
    try:
        for process in processes:
            _tell(process, json.dumps(asdict(task)))
        for process in processes:
            hear(process)
        begins = time.time() + GO_S
        for process in processes:
            _tell(process, json.dumps(begins))
        answers = [json.loads(hear(process)) for process in processes]
        for process in processes:
            process.wait(START_S)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    images = sum(answer["images"] for answer in answers)
    return Result(
        answered=images,
        seconds=task.seconds,
        throughput=sum(answer["images"] / answer["seconds"] for answer in answers),
        latency=latency(each for answer in answers for each in answer["latencies"]),
        statuses={},
        retry_after={},
    )


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def main() -> None:
    """Be one worker."""
    document = json.loads(sys.stdin.readline())
    task = Task(
        document["folder"], Work(document["work"]), document["picture"], document["seconds"]
    )
    classifier = Classifier.load(Path(task.folder))
    body = jpeg(Picture(task.picture))
    tensor = classifier.normalise(classifier.decode(body))
    size = 8 if task.work is Work.BATCH_8 else 1
    batch = np.concatenate([tensor] * size)
    for _ in range(3):
        classifier.scores(batch)
    print("ready", flush=True)
    time.sleep(max(0.0, json.loads(sys.stdin.readline()) - time.time()))
    latencies = []
    now = begun = time.perf_counter()
    while now < begun + task.seconds:
        if task.work is Work.DECODE:
            batch = classifier.normalise(classifier.decode(body))
        classifier.scores(batch)
        last, now = now, time.perf_counter()
        latencies.append(now - last)
    answer = {"images": size * len(latencies), "seconds": now - begun, "latencies": latencies}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
