"""Manufacturers by a list: what a header calls one is free text, and may hold anything.

(0008,0070) is typed at installation, or copied from who knows where; a name in it would come out in
metrics, records and answers. So the card's rule sees the text, and everybody after it a name of
this list, or `unlisted`.
"""

import re
from typing import Final

UNLISTED: Final = "unlisted"

# How a header's words begin, in capitals; many firms write themselves in several ways.
_KNOWN: Final = {
    "Agfa": ("AGFA",),
    "Aloka": ("ALOKA",),
    "Bruker": ("BRUKER",),
    "Canon": ("CANON",),
    "Carestream": ("CARESTREAM", "KODAK", "EASTMAN KODAK"),
    "Del Medical": ("DEL MEDICAL",),
    "DRTECH": ("DRTECH",),
    "Elekta": ("ELEKTA",),
    "EOS imaging": ("EOS IMAGING",),
    "Esaote": ("ESAOTE",),
    "Fujifilm": ("FUJI", "FUJIFILM"),
    "GE": ("GE", "G E", "GEMS", "GENERAL ELECTRIC"),
    "Heidelberg Engineering": ("HEIDELBERG ENGINEERING",),
    "Hitachi": ("HITACHI",),
    "Hologic": ("HOLOGIC", "LORAD"),
    "Konica Minolta": ("KONICA", "KONICA MINOLTA", "KONICAMINOLTA"),
    "Leica": ("LEICA",),
    "Medtronic": ("MEDTRONIC",),
    "Mindray": ("MINDRAY", "SHENZHEN MINDRAY"),
    "Neusoft": ("NEUSOFT",),
    "Nidek": ("NIDEK",),
    "Olympus": ("OLYMPUS",),
    "Philips": ("PHILIPS",),
    "Planmeca": ("PLANMECA",),
    "Planmed": ("PLANMED",),
    "Samsung": ("SAMSUNG", "SAMSUNG MEDISON", "MEDISON"),
    "Shimadzu": ("SHIMADZU",),
    "Siemens": ("SIEMENS",),
    "SonoSite": ("SONOSITE",),
    "Swissray": ("SWISSRAY",),
    "Topcon": ("TOPCON",),
    "Toshiba": ("TOSHIBA",),
    "United Imaging": ("UIH", "UNITED IMAGING", "SHANGHAI UNITED IMAGING"),
    "Varian": ("VARIAN",),
    "Vieworks": ("VIEWORKS",),
    "Zeiss": ("ZEISS", "CARL ZEISS"),
    "Ziehm": ("ZIEHM",),
}
_BY_BEGINNING: Final = {words: name for name, ways in _KNOWN.items() for words in ways}
_LONGEST: Final = max(len(words.split()) for words in _BY_BEGINNING)
_NOT_WORDS: Final = re.compile(r"[^A-Z0-9]+")


def listed(manufacturer: str) -> str:
    """The list's name of a header's manufacturer; `unlisted`; "" where the header does not say."""
    if not manufacturer:
        return ""
    words = _NOT_WORDS.sub(" ", manufacturer.upper()).split()
    if not words:
        return ""
    for count in range(min(_LONGEST, len(words)), 0, -1):
        if name := _BY_BEGINNING.get(" ".join(words[:count])):
            return name
    return UNLISTED
