"""The registered models, as any user sees them."""

import pytest

from deployments.api.models import ModelDetails, ModelPage
from tests.api.house import House


async def test_every_version_is_listed(house: House) -> None:
    response = await house.client("vera").get("/models")

    page = ModelPage.model_validate(response.json())
    assert [(item.name, item.version, str(item.status)) for item in page.items] == [
        ("body-part", "1.0.0", "registered"),
        ("cxr-pneumonia", "1.0.0", "active"),
        ("cxr-pneumonia", "0.9.0", "validated"),
    ]
    assert (page.page, page.size, page.total) == (1, 20, 3)
    assert page.items[1].labels == ["NORMAL", "PNEUMONIA"]


async def test_pages_begin_at_1(house: House) -> None:
    client = house.client("vera")

    second = (await client.get("/models?page=2&size=2")).json()
    beyond = (await client.get("/models?page=9&size=2")).json()

    assert [item["version"] for item in second["items"]] == ["0.9.0"]
    assert (beyond["items"], beyond["total"]) == ([], 3)


async def test_links_lead_through_the_list(house: House) -> None:
    client = house.client("vera")

    first = (await client.get("/models?size=2")).json()
    second = (await client.get(first["links"]["next"])).json()

    assert first["links"] == {
        "first": "/models?page=1&size=2",
        "prev": None,
        "next": "/models?page=2&size=2",
        "last": "/models?page=2&size=2",
    }
    assert [item["version"] for item in second["items"]] == ["0.9.0"]
    assert (second["links"]["next"], second["links"]["prev"]) == (None, first["links"]["first"])


@pytest.mark.parametrize(
    ("query", "versions"),
    [
        ("status=active", ["1.0.0"]),
        ("status=retired", []),
        ("clinical_domain=chest-xray", ["1.0.0", "1.0.0", "0.9.0"]),
        ("clinical_domain=chest-xray&status=validated", ["0.9.0"]),
        ("clinical_domain=knee", []),
    ],
)
async def test_the_list_can_be_filtered(house: House, query: str, versions: list[str]) -> None:
    page = (await house.client("vera").get(f"/models?{query}")).json()

    assert [item["version"] for item in page["items"]] == versions
    assert page["total"] == len(versions)
    assert page["links"]["first"] == f"/models?{query}&page=1&size=20"


async def test_a_misspelt_filter_is_not_none(house: House) -> None:
    response = await house.client("vera").get("/models?domain=4711")

    assert response.status_code == 422
    assert "4711" not in response.text


@pytest.mark.parametrize("query", ["page=0", "size=0", "size=101", "page=x", "page=1e9"])
async def test_a_wrong_page_is_422(house: House, query: str) -> None:
    response = await house.client("vera").get(f"/models?{query}")

    assert response.status_code == 422
    assert response.json()["violations"][0]["rule"] == f"query.{query.partition('=')[0]}"


async def test_a_name_is_its_active_version_with_its_card(house: House) -> None:
    response = await house.client("vera").get("/models/cxr-pneumonia")

    model = ModelDetails.model_validate(response.json())
    assert (model.version, str(model.status)) == ("1.0.0", "active")
    assert model.card.limits == ("Never run.",)
    assert [version.version for version in model.versions] == ["1.0.0", "0.9.0"]


async def test_an_id_is_that_very_version(house: House) -> None:
    client = house.client("vera")
    listed = (await client.get("/models")).json()["items"]

    for item in listed:
        response = await client.get(f"/models/{item['id'].upper()}")

        assert response.json()["version"] == item["version"]
        assert response.json()["name"] == item["name"]


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [
        ("cxr-pneumona", "did you mean cxr-pneumonia?"),
        ("body-part", "no version of it is active: name one by its id"),
        ("DOE", "GET /models lists the names"),
        ("x" * 5000, "GET /models lists the names"),
    ],
)
async def test_an_unknown_model_is_404_with_advice(house: House, wanted: str, advice: str) -> None:
    response = await house.client("vera").get(f"/models/{wanted}")

    assert response.status_code == 404
    assert response.json()["violations"] == [
        {"rule": "model", "measured": "", "limit": "", "advice": advice}
    ]
