"""Manufacturers: as firms write themselves, and nothing else."""

import pytest

from deployments.inference.constraints import check_constraints
from deployments.inference.decoded import PatientFacts
from deployments.inference.manufacturers import UNLISTED, listed
from registry.card import Action, Constraints, ExcludedValues
from registry.contract import ImageFacts


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Philips Medical Systems, Inc.", "Philips"),
        ("G.E. Medical Systems", "GE"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("FUJI PHOTO FILM CO. LTD.", "Fujifilm"),
        ("TOSHIBA_MEC", "Toshiba"),
        ("Agfa-Gevaert AG", "Agfa"),
        ("siemens healthineers", "Siemens"),
        ("SIEMENS JOHN DOE", "Siemens"),
        ("Carl Zeiss Meditec", "Zeiss"),
        ("JOHN DOE", UNLISTED),
        ("GEORGE", UNLISTED),
        ("DOE SIEMENS", UNLISTED),
        ("***", ""),
        ("", ""),
    ],
)
def test_a_manufacturer_is_a_name_of_the_list_or_unlisted(text: str, name: str) -> None:
    assert listed(text) == name


@pytest.mark.parametrize("excluded", ["SIEMENS", "Siemens Healthineers GmbH"])
def test_a_card_excludes_a_firm_however_it_writes_itself(excluded: str) -> None:
    rule = Constraints(manufacturer=ExcludedValues(excluded=(excluded,)))
    facts = ImageFacts("0" * 64, 1, manufacturer="SIEMENS Healthineers GmbH")

    (finding,) = check_constraints(rule, facts, PatientFacts())

    assert finding.action is Action.REFUSE
    assert finding.check.measured == "Siemens"
