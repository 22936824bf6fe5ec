"""A small Serve application that records into `Instruments` and exports them through Ray.

Run by test_metrics_ray.py in a process of its own, because Ray reads its switches once a process.
Arguments: a private directory, the port of the metrics agent, where to write what was seen.
"""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from uuid import UUID

RUN_DIR, PORT, REPORT = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(RUN_DIR / "token"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_metrics_report_interval_ms": "1000",
}
(RUN_DIR / "token").write_text("0" * 64)

import ray  # noqa: E402
from ray import serve  # noqa: E402

from configs.settings import ServerSettings  # noqa: E402
from deployments.ray_metrics import RayExporter  # noqa: E402
from deployments.telemetry.metrics import Instruments  # noqa: E402
from deployments.telemetry.metrics_exposition import MetricsPage  # noqa: E402
from deployments.telemetry.metrics_observations import (  # noqa: E402
    observe_request,
    observe_verdict,
    start_at_zero,
)
from registry.contract import ImageFacts, ModelRef, Outcome, Verdict  # noqa: E402

MODEL = ModelRef(UUID(int=1), "cxr-pneumonia", "1.2.3", "a" * 64)
VERDICT = Verdict(
    outcome=Outcome.PREDICTED,
    facts=ImageFacts("b" * 64, 6000, "JPEG"),
    prediction="PNEUMONIA",
    scores={"NORMAL": 0.07, "PNEUMONIA": 0.93},
)
TIMINGS_MS = {"decode": 1.5, "model": 4.0, "inference": 3.0, "screen": 8.0, "total": 9.25}


class Recording:
    """Stands where a gateway does."""

    def __init__(self) -> None:
        self._instruments = Instruments("gateway")
        start_at_zero(self._instruments)
        self._exporter = RayExporter(self._instruments)
        self._exporter.start()

    async def answer(self) -> None:
        observe_verdict(self._instruments, MODEL, VERDICT, TIMINGS_MS)
        observe_request(
            self._instruments, route="/infer", method="POST", status=200, seconds=0.01,
            outcome="predicted",
        )  # fmt: skip

    async def __del__(self) -> None:
        self._instruments.lockouts.add(1)  # only the last export can tell of it
        await self._exporter.close()


async def page_with(*wanted: str, limit_s: float = 30) -> str:
    """The page once it holds every wanted text, or as it is after the limit."""
    page = MetricsPage.of_node(ServerSettings(metrics_port=PORT))
    text, deadline = "", time.monotonic() + limit_s
    while time.monotonic() < deadline:
        text = await page.text()
        if all(part in text for part in wanted):
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(2.5)  # whatever would be counted twice has time to be
    return await page.text()


def main() -> None:
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
        _temp_dir=str(RUN_DIR / "ray"),
        _metrics_export_port=PORT,
    )
    serve.start(proxy_location="Disabled")
    deployed = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})(Recording)
    handle = serve.run(deployed.bind(), name="first")
    for _ in range(20):
        [answer.result() for answer in [handle.answer.remote() for _ in range(10)]]
    during = asyncio.run(page_with('outcome="predicted"', 'phase="total"'))
    serve.delete("first")
    after = asyncio.run(page_with("ray_medai_lockouts_total"))
    REPORT.write_text(json.dumps({"during": during, "after": after}))
    serve.shutdown()  # type: ignore[no-untyped-call]  # Serve's
    ray.shutdown()


if __name__ == "__main__":
    main()
