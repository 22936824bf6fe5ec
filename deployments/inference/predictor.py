"""What the Validator does with a batch of uploads: a verdict for each, in order.

    1. prepare   file -> facts, measures, tensors    light files in threads, heavy ones in the guard
    2. screen    the card's rules on quality, intended use, privacy            (inference.screening)
    3. gate      is it the kind of image the model was made for                     (inference.gate)
    4. score     one tensor for all images of a model, one call
    5. decide    label, abstention or refusal                                  (inference.screening)

Rules this file keeps: an image's trouble, whatever it is, becomes that image's verdict and never
its batch-mates'; work on pixels never runs on the loop; nothing of a header survives but the facts.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from configs.settings import LimitSettings, PrivacySettings
from configs.topology import ValidatorTuning
from deployments.inference import screening
from deployments.inference.gate import Gates
from deployments.inference.guard import Guard
from deployments.inference.prepare import Prepared, Work, file_facts, prepare
from deployments.inference.privacy_checks import Patients
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.screening import Candidate
from deployments.inference.signature import signature
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.tracing_attributes import Attribute, SpanName
from registry.catalogue import Catalogue, Served
from registry.contract import ModelRef, Scores, Tensors, Upload, Verdict
from registry.errors import ModelUnavailable, NotFound

if TYPE_CHECKING:  # OpenTelemetry is loaded only where tracing is on
    from deployments.telemetry.tracing import Tracing

Stage: TypeAlias = Candidate | Verdict
Group: TypeAlias = list[tuple[int, Candidate]]


class Scoring(Protocol):
    """The models, wherever they run."""

    async def score(self, tensors: Tensors) -> Scores:
        """Scores of each image, in order. Raises `Failed`."""
        ...


class Versions(Protocol):
    """What is known of the models."""

    def served(self, model: ModelRef) -> Served:
        """The version with this id. Raises `ModelUnavailable`."""
        ...

    async def learn(self, model: ModelRef) -> Served:
        """The same, asked for where it is not known yet."""
        ...

    def current(self) -> Catalogue:
        """The active versions."""
        ...


class Predictor:
    """Screens uploads. One a Validator replica.

    Args:
        versions: What is known of the models.
        scoring: The models.
        limits: Bounds of one image.
        privacy: The policy on patient data.
        pseudonym_key_file: Where the key is.
        tracing: The process's, where tracing is on.
        instruments: What is counted.

    Raises:
        InvalidConfiguration: The key is missing or too short.
    """

    def __init__(
        self,
        versions: Versions,
        scoring: Scoring,
        *,
        limits: LimitSettings,
        privacy: PrivacySettings,
        pseudonym_key_file: Path,
        tracing: "Tracing | None" = None,
        instruments: Instruments | None = None,
    ) -> None:
        tuning = ValidatorTuning()
        self._versions = versions
        self._scoring = scoring
        self._limits = limits
        self._privacy = privacy
        self._tracing = tracing
        self._pseudonyms = Pseudonyms.from_file(
            pseudonym_key_file, version=privacy.pseudonym_key_version
        )
        self._threads = ThreadPoolExecutor(tuning.threads, thread_name_prefix="prepare")
        self._thread_count = tuning.threads
        self._guard = Guard(limits, processes=tuning.decoder_processes, instruments=instruments)
        self._guard.start()
        self._gates = Gates(deadline_s=limits.deadline_s)

    async def screen(self, uploads: list[Upload]) -> list[Verdict]:
        """A verdict for each upload, in order. Raises nothing on an image's account."""
        await self._learn(uploads)
        stages = await self._prepare(uploads)
        gates = _groups(stages, lambda candidate: candidate.gate)
        await asyncio.gather(*(self._ask_gate(uploads, stages, group) for group in gates))
        models = _groups(stages, lambda candidate: candidate.served)
        await asyncio.gather(*(self._ask_model(uploads, stages, group) for group in models))
        return [stage for stage in stages if isinstance(stage, Verdict)]

    def reconfigure(self, tuning: ValidatorTuning) -> None:
        """Take new tuning without a restart."""
        if tuning.threads != self._thread_count:
            old, self._thread_count = self._threads, tuning.threads
            self._threads = ThreadPoolExecutor(tuning.threads, thread_name_prefix="prepare")
            old.shutdown(wait=False)
        self._guard.reconfigure(processes=tuning.decoder_processes)

    def check_health(self) -> None:
        """Raises `Internal` where this replica cannot do its work."""
        self._guard.check_health()

    async def close(self) -> None:
        """Let go of threads, processes and sessions."""
        self._guard.close()
        self._threads.shutdown()
        self._gates.close()

    async def _learn(self, uploads: list[Upload]) -> None:
        """See that each version is known. One that is not becomes its images' own trouble later."""
        for model in {upload.model for upload in uploads}:
            with contextlib.suppress(ModelUnavailable):
                await self._versions.learn(model)

    async def _prepare(self, uploads: list[Upload]) -> list[Stage]:
        """Steps 1 and 2. Light files share a few jobs: a job costs as much as decoding one."""
        light: list[int] = []
        heavy: list[int] = []
        for index, upload in enumerate(uploads):
            (heavy if signature(upload.body).heavy else light).append(index)
        shares = [light[start :: self._thread_count] for start in range(self._thread_count)]
        loop = asyncio.get_running_loop()
        in_threads = asyncio.gather(
            *(
                loop.run_in_executor(
                    self._threads, self._prepare_light, [uploads[index] for index in share]
                )
                for share in shares
            )
        )
        in_guard = asyncio.gather(*(self._prepare_heavy(uploads[index]) for index in heavy))
        stages = dict(zip(heavy, await in_guard, strict=True))
        for share, done in zip(shares, await in_threads, strict=True):
            stages.update(zip(share, done, strict=True))
        return [stages[index] for index in range(len(uploads))]

    def _prepare_light(self, uploads: list[Upload]) -> list[Stage]:
        stages = []
        for upload in uploads:
            facts = file_facts(upload.body)
            try:
                served, gate = self._models(upload)
                prepared = prepare(Work.of(upload, facts, served, gate), self._limits)
                stages.append(self._screen(upload, served, gate, prepared))
            except Exception as error:  # noqa: BLE001  # no image may harm its batch-mates
                stages.append(screening.unprepared(upload, facts, error))
        return stages

    async def _prepare_heavy(self, upload: Upload) -> Stage:
        loop = asyncio.get_running_loop()
        facts = await loop.run_in_executor(self._threads, file_facts, upload.body)
        try:
            served, gate = self._models(upload)
            prepared = await self._guard.prepare(Work.of(upload, facts, served, gate))
            return self._screen(upload, served, gate, prepared)
        except Exception as error:  # noqa: BLE001  # no image may harm its batch-mates
            return screening.unprepared(upload, facts, error)

    def _models(self, upload: Upload) -> tuple[Served, Served | None]:
        """The model that shall answer, and its gate. Raises `ModelUnavailable`."""
        served = self._versions.served(upload.model)
        try:
            return served, self._versions.current().gate_of(served)
        except NotFound:
            raise ModelUnavailable("the gate of this model has no active version") from None

    def _screen(
        self, upload: Upload, served: Served, gate: Served | None, prepared: Prepared
    ) -> Stage:
        self._trace_prepared(upload.trace, prepared)
        patients = Patients(upload.patient, self._pseudonyms.of(prepared.patient.id))
        return screening.screen(served, gate, prepared, patients, self._privacy)

    def _trace_prepared(self, trace: str | None, prepared: Prepared) -> None:
        """Called right after the work, so its times say when it began."""
        if self._tracing is None or trace is None:
            return
        about = {
            Attribute.DECODE_MS: prepared.decode_ms,
            Attribute.MEASURE_MS: prepared.measure_ms,
            Attribute.PREPROCESS_MS: prepared.preprocess_ms,
        }
        seconds = (prepared.decode_ms + prepared.measure_ms + prepared.preprocess_ms) / 1e3
        self._tracing.ended(SpanName.PREPARE, (trace,), seconds=seconds, attributes=about)

    async def _ask_gate(self, uploads: list[Upload], stages: list[Stage], group: Group) -> None:
        """Step 3: one run for all images of one gate."""
        candidates = [candidate for _, candidate in group]
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        passed = await loop.run_in_executor(self._threads, self._gates.judge, candidates)
        if self._tracing is not None:
            seconds = time.perf_counter() - started
            self._tracing.ended(SpanName.GATE, _traces(uploads, group), seconds=seconds)
        for (index, _), stage in zip(group, passed, strict=True):
            stages[index] = stage

    async def _ask_model(self, uploads: list[Upload], stages: list[Stage], group: Group) -> None:
        """Steps 4 and 5: one call for all images of one model."""
        model = group[0][1].served.model
        pixels = np.stack([candidate.prepared.tensors[0] for _, candidate in group])
        started = time.perf_counter()
        try:
            tensors = Tensors(model, pixels, _traces(uploads, group))
            scores = await self._scoring.score(tensors)
            model_ms = (time.perf_counter() - started) * 1e3
            for (index, candidate), row in zip(group, scores.values, strict=True):
                stages[index] = screening.decide(candidate, row, scores, model_ms)
        except Exception as error:  # noqa: BLE001  # whatever a hop raises concerns this model only
            for index, candidate in group:
                stages[index] = screening.failed(candidate, error)


def _traces(uploads: list[Upload], group: Group) -> tuple[str, ...]:
    """The spans that wait for a group's images; none where tracing is off."""
    return tuple(trace for index, _ in group if (trace := uploads[index].trace) is not None)


def _groups(stages: list[Stage], of: Callable[[Candidate], Served | None]) -> list[Group]:
    """Candidates that go to the same model, with their places."""
    groups: dict[ModelRef, Group] = {}
    for index, stage in enumerate(stages):
        if isinstance(stage, Candidate) and (served := of(stage)) is not None:
            groups.setdefault(served.model, []).append((index, stage))
    return list(groups.values())
