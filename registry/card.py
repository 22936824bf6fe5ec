"""The model card: all that the service knows of a model beside its weights.

The card decides how an image becomes a tensor, which images the model was meant for, and when a
score is good enough to be called a prediction. It is part of what is approved: it is stored with
the version, and a changed card is a new version. Unknown keys are refused, so that a misspelt
limit cannot be a missing one.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), and the
information that the EU AI Act, article 13(3), wants a deployer to have.
"""

import hashlib
import math
from datetime import date
from enum import StrEnum
from itertools import accumulate
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
SemanticVersion = Annotated[
    str, StringConstraints(pattern=r"^\d{1,5}\.\d{1,5}\.\d{1,5}$", max_length=20)
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Probability = Annotated[float, Field(ge=0, le=1)]
SCORE_BOUNDS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Upper bounds of the buckets that scores are counted in, live and for a baseline."""


class Section(BaseModel):
    """A part of the card. Frozen, and strict about its keys and numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(Section):
    """How an image becomes the model's tensor.

    Pixels on the display scale 0..255 (grey) are resized to `height` x `width` pixels, then each
    value v becomes (v * scale - mean) / std.
    """

    name: str = "input"
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"
    height: int = Field(ge=8, le=4096)
    width: int = Field(ge=8, le=4096)
    color: Literal["grayscale", "rgb"] = "grayscale"
    resize: Literal["squash"] = "squash"  # aspect ratio not kept
    interpolation: Literal["bilinear"] = "bilinear"
    scale: float = Field(gt=0)
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    scaled_jpeg_decoding: bool = False  # faster, but changes pixels: only where measured harmless

    @property
    def channels(self) -> int:
        """1 for grayscale, 3 for rgb."""
        return 1 if self.color == "grayscale" else 3

    @model_validator(mode="after")
    def _one_mean_and_std_a_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            msg = f"{self.color} takes {self.channels} value(s) of mean and of std"
            raise ValueError(msg)
        return self


class OutputSpec(Section):
    """What the model's answer means. `labels` are in the order of the output's columns."""

    name: str = "logits"
    activation: Literal["softmax", "sigmoid", "none"]
    labels: tuple[Label, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            msg = "two labels are the same"
            raise ValueError(msg)
        return self


class Range(Section):
    """An inclusive range; a side left out is open."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.at_least is None and self.at_most is None:
            msg = "a range needs at_least, at_most or both"
            raise ValueError(msg)
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            msg = "at_least is above at_most"
            raise ValueError(msg)
        return self

    def holds(self, value: float) -> bool:
        """Whether `value` is in the range. NaN never is."""
        above = self.at_least is None or value >= self.at_least
        below = self.at_most is None or value <= self.at_most
        return not math.isnan(value) and above and below

    def __str__(self) -> str:
        if self.at_least is None:
            return f"at most {self.at_most:g}"
        if self.at_most is None:
            return f"at least {self.at_least:g}"
        return f"{self.at_least:g} to {self.at_most:g}"


class Action(StrEnum):
    """What follows from a broken clinical constraint."""

    REFUSE = "refuse"  # 422, no score is made
    ABSTAIN = "abstain"  # no label; the scores are recorded and shown for review
    REVIEW = "review"  # a label, marked needs_review
    IGNORE = "ignore"


class ConstraintRule(Section):
    """What to do where the image's header breaks a constraint, and where it does not say."""

    violated: Action = Action.REFUSE
    absent: Action = Action.IGNORE


class AllowedValues(ConstraintRule):
    """A header value must be one of these. Compared without regard to case."""

    allowed: tuple[Annotated[str, StringConstraints(to_upper=True, max_length=64)], ...] = Field(
        min_length=1
    )


class ExcludedValues(ConstraintRule):
    """A header value must be none of these."""

    excluded: tuple[Annotated[str, StringConstraints(to_upper=True, max_length=64)], ...] = Field(
        min_length=1
    )


class AllowedRange(ConstraintRule):
    """A header value must lie in this range."""

    allowed: Range


class SymmetryRule(ConstraintRule):
    """Left and right must resemble each other: for models of frontal images of what is bilateral.

    The measure is `inference.symmetry`. An image whose header tells a view (0018,5101) that is none
    of `views`, such as a lateral one, is not held against the rule; where the header does not tell
    the view, `absent` follows instead of `violated`. What is cut off is asymmetric, but so is a
    chest with one white lung: refusing would turn away the sickest.
    """

    allowed: Range
    views: tuple[Annotated[str, StringConstraints(to_upper=True, max_length=16)], ...] = Field(
        default=("AP", "PA"), min_length=1
    )


class Constraints(Section):
    """What the model was meant for (DICOM PS3.3 attributes), each only where it is set."""

    modality: AllowedValues | None = None  # (0008,0060)
    body_part: AllowedValues | None = None  # (0018,0015)
    view: AllowedValues | None = None  # (0018,5101)
    laterality: AllowedValues | None = None  # (0020,0062) or (0020,0060)
    patient_age_years: AllowedRange | None = None  # (0010,1010), or birth and study dates
    patient_sex: AllowedValues | None = None  # (0010,0040)
    bit_depth: AllowedRange | None = None  # (0028,0101), or the file's own
    pixel_spacing_mm: AllowedRange | None = None  # (0028,0030) or (0018,1164), larger of the two
    photometric: AllowedValues | None = None  # (0028,0004)
    manufacturer: ExcludedValues | None = None  # (0008,0070)
    symmetry: SymmetryRule | None = None  # of the pixels


class QualityLimits(Section):
    """The measured quality an image must have. Measures and units: `inference.quality`.

    The defaults were calibrated as docs/quality.md tells.
    """

    width_px: Range = Range(at_least=64)
    height_px: Range = Range(at_least=64)
    aspect_ratio: Range = Range(at_least=0.4, at_most=2.5)
    brightness: Range = Range(at_least=0.08, at_most=0.92)
    contrast: Range = Range(at_least=0.07)
    dynamic_range: Range = Range(at_least=0.3)
    clipping: Range = Range(at_most=0.55)
    content: Range = Range(at_least=0.4)
    noise: Range = Range(at_most=0.06)
    sharpness: Range = Range(at_least=0.065)
    motion: Range = Range(at_least=0.065)


class Gate(Section):
    """Another model that must first say that the image is of the kind this model was meant for."""

    model: ModelName
    accept: tuple[Label, ...] = Field(min_length=1)
    at_least: Probability = 0.5  # the summed score of the accepted labels


class GoldenCase(Section):
    """A case whose answer is known: run before a replica is ready, and on a schedule after.

    The input is `SHAKE-128(seed)` (FIPS 202) read as uint8, shape (channels, height, width): the
    same bytes on every platform for ever, without a file.
    """

    seed: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    scores: dict[Label, float]
    tolerance: float = Field(gt=0, le=0.05)

    def pixels(self, spec: InputSpec) -> bytes:
        """The input's bytes, channels x height x width."""
        size = spec.channels * spec.height * spec.width
        return hashlib.shake_128(self.seed.encode()).digest(size)


class RuntimeSpec(Section):
    """How ONNX Runtime runs the model."""

    execution_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    allow_domains: tuple[str, ...] = ()  # operator domains beside ai.onnx, each signed off


class ScoreBaseline(Section):
    """How the scores lay on the data that the version was validated with.

    Live scores are counted in the same buckets (`medai_model_score_ratio`); an alert tells where
    they lie elsewhere. `medai models baseline` makes this section from stored results.

    Attributes:
        source: Which images these were.
        taken_on: When.
        images: How many. Below 100, chance alone moves a distribution as far as the alert allows.
        bounds: Upper bounds of the buckets: `SCORE_BOUNDS`.
        counts: For each label, how many scores lay in each bucket; the last one is above all
            bounds.
    """

    source: Text
    taken_on: date
    images: int = Field(ge=100)
    bounds: tuple[float, ...] = SCORE_BOUNDS
    counts: dict[Label, tuple[Annotated[int, Field(ge=0)], ...]]

    @model_validator(mode="after")
    def _is_a_histogram(self) -> Self:
        if self.bounds != SCORE_BOUNDS:
            msg = f"bounds must be those of the live scores: {', '.join(map(str, SCORE_BOUNDS))}"
            raise ValueError(msg)
        for counts in self.counts.values():
            if len(counts) != len(SCORE_BOUNDS) + 1 or sum(counts) != self.images:
                msg = f"a label takes {len(SCORE_BOUNDS) + 1} counts, in all as many as images"
                raise ValueError(msg)
        return self

    def upto(self, label: str) -> dict[float, float]:
        """For each bound, which share (0..1) of the label's scores is at most that."""
        cumulative = accumulate(self.counts[label])
        return {
            bound: below / self.images
            for bound, below in zip(SCORE_BOUNDS, cumulative, strict=False)
        }


class DataSource(Section):
    """Where the training data came from, and under which licence."""

    title: Text
    authors: Text
    licence: Text
    doi: str | None = None
    population: Text | None = None
    changes: Text | None = None


class ModelCard(Section):
    """One version of one model. See the module's docstring."""

    name: ModelName
    version: SemanticVersion
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}\.onnx$")] = "model.onnx"
    sha256: Sha256
    clinical_domain: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")]
    intended_use: Text
    architecture: Text | None = None
    input: InputSpec
    output: OutputSpec
    confidence_threshold: Probability
    quality: QualityLimits = QualityLimits()
    constraints: Constraints = Constraints()
    gate: Gate | None = None
    golden: GoldenCase
    runtime: RuntimeSpec = RuntimeSpec()
    metrics: dict[str, float | str | dict[str, float]] = Field(default_factory=dict)
    baseline: ScoreBaseline | None = None
    data: tuple[DataSource, ...] = Field(min_length=1)
    licence: Text
    limits: tuple[Text, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _golden_scores_name_every_label(self) -> Self:
        if set(self.golden.scores) != set(self.output.labels):
            msg = "golden.scores must name each label of output.labels once"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _baseline_names_every_label(self) -> Self:
        if self.baseline is not None and set(self.baseline.counts) != set(self.output.labels):
            msg = "baseline.counts must name each label of output.labels once"
            raise ValueError(msg)
        return self
