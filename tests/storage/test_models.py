"""The registry's records: what is registered, and how a version moves."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from registry.contract import ModelRef, Receipt
from registry.errors import Conflict, IllegalTransition, InvalidModel, MedAIError, NotFound
from registry.events import AuditEvent, ModelTransition, NewModelVersion
from registry.lifecycle import ModelStatus
from storage.models import ModelRepository, RegisteredModel
from storage.verify import verify

if TYPE_CHECKING:
    from conftest import Site

STEPS = (
    (ModelStatus.REGISTERED, ModelStatus.VALIDATED),
    (ModelStatus.VALIDATED, ModelStatus.APPROVED),
    (ModelStatus.APPROVED, ModelStatus.ACTIVE),
)


async def found(site: "Site", version: str = "1.0.0") -> RegisteredModel:
    async with site.database.reading() as session:
        return await ModelRepository(session).version(site.model.name, version)


async def refusal(site: "Site", event: AuditEvent) -> MedAIError:
    [ended] = await site.offer(event)
    assert isinstance(ended, MedAIError)
    return ended


def registration(site: "Site", version: str) -> NewModelVersion:
    """Another version of the site's model."""
    model = ModelRef(uuid7(), site.model.name, version, "12" * 32)
    return NewModelVersion(
        model, site.card(model), f"{model.sha256}.onnx", 99, "chest-xray", 0.7, "cli"
    )


async def activate(site: "Site", model: ModelRef) -> list[Receipt]:
    return await site.record(*(site.step(model, before, after) for before, after in STEPS))


async def test_a_registered_version_is_found_as_it_was_registered(site: "Site") -> None:
    version = await found(site)

    assert version.model == site.model
    assert version.status is ModelStatus.REGISTERED
    assert version.card.output.labels == ("normal", "pneumonia")
    assert (version.path, version.size_bytes) == (f"{site.model.sha256}.onnx", 1234)
    assert (version.registered_by, version.approved_by) == ("cli", None)
    assert version.created_at == version.status_changed_at


async def test_an_approval_names_who_gave_it(site: "Site") -> None:
    await site.record(*(site.step(site.model, *step) for step in STEPS[:2]))

    version = await found(site)

    assert version.status is ModelStatus.APPROVED
    assert version.approved_by == "admin"
    assert version.status_changed_at > version.created_at


async def test_only_an_active_version_is_in_the_catalogue(site: "Site", tmp_path: Path) -> None:
    async with site.database.reading() as session:
        before = await ModelRepository(session).catalogue(tmp_path)
    await activate(site, site.model)

    async with site.database.reading() as session:
        after = await ModelRepository(session).catalogue(tmp_path)

    assert before.names == ()
    served = after.active(site.model.name)
    assert served.model == site.model
    assert served.path == str(tmp_path / f"{site.model.sha256}.onnx")


async def test_the_version_that_is_replaced_goes_back_to_approved(site: "Site") -> None:
    second = registration(site, "2.0.0")
    await activate(site, site.model)
    await site.record(site.event(second))

    *_, receipt = await activate(site, second.model)

    old, new = await found(site), await found(site, "2.0.0")
    assert (old.status, new.status) == (ModelStatus.APPROVED, ModelStatus.ACTIVE)
    assert old.status_changed_at == new.status_changed_at
    assert old.approved_by == "admin"
    assert f'"replaced":{{"id":"{site.model.id}"' in await payload(site, receipt.seq)
    assert (await verify(site.database)).intact


async def test_a_rollback_is_an_activation(site: "Site") -> None:
    second = registration(site, "2.0.0")
    await activate(site, site.model)
    await site.record(site.event(second))
    await activate(site, second.model)

    await site.record(site.step(site.model, ModelStatus.APPROVED, ModelStatus.ACTIVE))

    assert (await found(site)).status is ModelStatus.ACTIVE
    assert (await found(site, "2.0.0")).status is ModelStatus.APPROVED


async def payload(site: "Site", seq: int) -> str:
    async with site.database.reading() as session:
        text_of = await session.scalar(
            text("SELECT payload FROM audit_logs WHERE seq = :seq"), {"seq": seq}
        )
    return str(text_of)


async def test_a_version_that_stands_elsewhere_is_not_moved(site: "Site") -> None:
    step = site.step(site.model, ModelStatus.VALIDATED, ModelStatus.APPROVED)

    refused = await refusal(site, step)

    assert isinstance(refused, IllegalTransition)
    assert refused.violations[0].measured == "registered"


async def test_a_failed_activation_leaves_the_active_version_serving(site: "Site") -> None:
    second = registration(site, "2.0.0")
    await activate(site, site.model)
    await site.record(site.event(second))

    await refusal(site, site.step(second.model, ModelStatus.APPROVED, ModelStatus.ACTIVE))

    assert (await found(site)).status is ModelStatus.ACTIVE


async def test_a_version_nobody_registered_cannot_be_moved(site: "Site") -> None:
    unknown = replace(site.model, id=uuid7())

    refused = await refusal(site, site.step(unknown, ModelStatus.REGISTERED, ModelStatus.VALIDATED))

    assert isinstance(refused, NotFound)


async def test_a_step_of_another_file_is_refused(site: "Site") -> None:
    other_file = replace(site.model, sha256="cd" * 32)

    refused = await refusal(
        site, site.step(other_file, ModelStatus.REGISTERED, ModelStatus.VALIDATED)
    )

    assert isinstance(refused, Conflict)
    assert (await found(site)).status is ModelStatus.REGISTERED


async def test_a_version_is_registered_once(site: "Site") -> None:
    refused = await refusal(site, site.event(registration(site, "1.0.0")))

    assert isinstance(refused, Conflict)
    assert [violation.rule for violation in refused.violations] == ["version"]


async def test_a_card_of_another_version_is_refused_with_every_difference(site: "Site") -> None:
    change = registration(site, "2.0.0")
    other = replace(
        change,
        model=replace(change.model, version="3.0.0", sha256="99" * 32),
        confidence_threshold=0.1,
    )

    refused = await refusal(site, site.event(other))

    assert isinstance(refused, InvalidModel)
    assert [violation.rule for violation in refused.violations] == [
        "version",
        "sha256",
        "confidence_threshold",
    ]


async def test_a_card_that_cannot_be_read_is_refused(site: "Site") -> None:
    change = replace(registration(site, "2.0.0"), card='{"secret": 1}')

    refused = await refusal(site, site.event(change))

    assert isinstance(refused, InvalidModel)
    assert "secret" not in str(refused)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.onnx", "a/../../x.onnx", ""])
async def test_a_file_outside_the_model_directory_is_refused(site: "Site", path: str) -> None:
    change = replace(registration(site, "2.0.0"), path=path)

    assert isinstance(await refusal(site, site.event(change)), InvalidModel)


async def test_versions_are_listed_by_name_and_then_the_newest_first(site: "Site") -> None:
    await site.record(site.event(registration(site, "2.0.0")))

    async with site.database.reading() as session:
        everything = await ModelRepository(session).listed()
        named = await ModelRepository(session).listed(site.model.name)
        others = await ModelRepository(session).listed("other")

    assert [version.model.version for version in everything] == ["2.0.0", "1.0.0"]
    assert named == everything
    assert others == ()


async def test_a_version_that_is_not_there_is_not_found(site: "Site") -> None:
    with pytest.raises(NotFound):
        await found(site, "9.9.9")


async def test_a_stored_card_that_cannot_be_read_is_never_guessed(
    site: "Site", tmp_path: Path
) -> None:
    await activate(site, site.model)
    async with site.database.transaction() as session:
        await session.execute(text("UPDATE model_versions SET card = '{\"secret\": 1}'"))

    with pytest.raises(InvalidModel, match=r"cxr-pneumonia 1\.0\.0") as caught:
        await found(site)
    async with site.database.reading() as session:
        with pytest.raises(InvalidModel):
            await ModelRepository(session).catalogue(tmp_path)

    assert "secret" not in str(caught.value)


async def test_two_admins_at_once_leave_one_active_version(site: "Site") -> None:
    second = registration(site, "2.0.0")
    await site.record(site.event(second))
    for model in (site.model, second.model):
        await site.record(*(site.step(model, *step) for step in STEPS[:2]))

    await site.record(
        site.event(
            ModelTransition(site.model, ModelStatus.APPROVED, ModelStatus.ACTIVE, "one"),
            ModelTransition(second.model, ModelStatus.APPROVED, ModelStatus.ACTIVE, "two"),
        )
    )

    assert (await found(site)).status is ModelStatus.APPROVED
    assert (await found(site, "2.0.0")).status is ModelStatus.ACTIVE
    assert (await verify(site.database)).intact
