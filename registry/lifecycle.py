"""The states of a model version, and the steps between them.

    registered ──► validated ──► approved ──► active ──► retired
                                    ▲            │          │
                                    └────────────┘          │
                                    ▲   (replaced)          │
                                    └───────────────────────┘ (brought back: approved again)

Only an `active` version serves, and at most one version of a name is active. A version that another
replaces goes back to `approved`, so that a rollback is an activation like any other. Every step not
named here is refused (21 CFR 11.10(f), operational system checks).

Beside its versions a model name has:

    staged      the version that replicas load beside the one that serves, before the switch
    previous    the version that served before the active one: where a rollback leads
    halt        a reason for which nothing of this name answers, whatever is active
    challenger  a version that scores a share of what the active one answers, unheard

(docs/adr/0011, 0015)
"""

from enum import StrEnum

from registry.errors import IllegalTransition, Violation


class ModelStatus(StrEnum):
    """Where a model version stands."""

    REGISTERED = "registered"  # file and card are stored, their hash agrees
    VALIDATED = "validated"  # inspected, dry run and golden case passed
    APPROVED = "approved"  # somebody other than the uploader has signed it off
    ACTIVE = "active"  # serves
    RETIRED = "retired"  # never again without a new approval


class ReplicaState(StrEnum):
    """How far one replica is with one version."""

    LOADING = "loading"
    READY = "ready"  # hash, golden case and warm-up are behind it
    FAILED = "failed"


STEPS: dict[ModelStatus, frozenset[ModelStatus]] = {
    ModelStatus.REGISTERED: frozenset({ModelStatus.VALIDATED, ModelStatus.RETIRED}),
    ModelStatus.VALIDATED: frozenset({ModelStatus.APPROVED, ModelStatus.RETIRED}),
    ModelStatus.APPROVED: frozenset({ModelStatus.ACTIVE, ModelStatus.RETIRED}),
    ModelStatus.ACTIVE: frozenset({ModelStatus.APPROVED, ModelStatus.RETIRED}),
    ModelStatus.RETIRED: frozenset({ModelStatus.APPROVED}),
}


def check_step(current: ModelStatus, wanted: ModelStatus) -> None:
    """Raises `IllegalTransition` where `current` does not lead to `wanted`."""
    if wanted not in STEPS[current]:
        raise IllegalTransition(
            f"a {current} version cannot become {wanted}",
            (
                Violation(
                    rule="status",
                    measured=current,
                    limit=" or ".join(sorted(STEPS[current])),
                    advice=f"bring the version to one of these states before {wanted}",
                ),
            ),
        )
