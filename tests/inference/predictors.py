"""A predictor of the bundled models, and what it is asked."""

from pathlib import Path
from uuid import uuid4

from configs.settings import PrivacySettings
from deployments.inference.predictor import Predictor
from deployments.inference.signature import signature
from deployments.telemetry.metrics import Instruments
from registry.catalogue import Served
from registry.contract import Upload, Verdict
from tests.inference.files import LIMITS
from tests.inference.models import InProcess, Known, bundled

CXR, BODY_PART = bundled("cxr-pneumonia"), bundled("body-part")
KEY = bytes(range(32))


def build(
    scoring: InProcess,
    key_file: Path,
    *versions: Served,
    instruments: Instruments | None = None,
    **privacy: str,
) -> Predictor:
    return Predictor(
        Known(*(versions or (CXR, BODY_PART))),
        scoring,
        limits=LIMITS,
        privacy=PrivacySettings.model_validate(privacy),
        pseudonym_key_file=key_file,
        instruments=instruments,
    )


def upload(body: bytes, version: Served = CXR, media_type: str | None = None) -> Upload:
    kind = media_type or signature(body).media_type or "image/png"
    return Upload(uuid4(), version.model, body, kind)


async def one(predictor: Predictor, sent: Upload) -> Verdict:
    (verdict,) = await predictor.screen([sent])
    return verdict
