"""The standard's own words for what a header says in codes; anything else is `UNLISTED`.

A code string holds any 16 capitals and digits, a name among them. What leaves the header for
answers, records and metrics is therefore a term that DICOM defines. A value that is present and not
one of them is not the same as none: no card accepts `UNLISTED`, so it breaks the constraint.
"""

from collections.abc import Mapping
from typing import Final

UNLISTED: Final = "UNLISTED"

_MODALITIES = """
    AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FA FID GM HC HD
    IO IOL IVOCT IVUS KER KO LEN LS MG MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN
    POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV
    SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC
    AS CD CF CP CS DD DF DM DS EC FS LP MA MS OPR ST VF
"""
_BODY_PARTS = """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS AORTA ARM AXILLA BACK BILEDUCT BLADDER BRACHIALPLEXUS
    BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN
    CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE DUODENUM
    EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FIBULA FINGER FOOT FOREARM GALLBLADDER HAND
    HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER
    LOWERLEG LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN
    NECKCHESTABDPELV NOSE OPTICCANAL ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX
    PROSTATE RADIUS RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SIJOINT SKULL SPINE SPLEEN
    SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THUMB THYMUS THYROID TIBIA TLSPINE TMJ TOE
    TONGUE TRACHEA TSPINE ULNA UMBILICUS URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST
    ZYGOMA DENTAL JOINT TOOTH
"""
_VIEWS = """
    AP PA LL RL RLD LLD RLO LLO LPO RPO RAO LAO
    CC MLO ML LM LMO SIO FB ISO XCC XCCL XCCM AT CV RM RL TAN ID
"""
_PHOTOMETRIC = """
    MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_420 YBR_ICT YBR_RCT XYB HSV ARGB
"""

TERMS: Final[Mapping[str, frozenset[str]]] = {
    "Modality": frozenset(_MODALITIES.split()),  # PS3.3 C.7.3.1.1.1, with the retired ones
    "BodyPartExamined": frozenset(
        {*_BODY_PARTS.split(), "PALATINE TONSIL"}
    ),  # PS3.16 annex L, tables L-1 to L-3
    "ViewPosition": frozenset(_VIEWS.split()),  # PS3.3 C.8.1.2, C.8.4.5, C.8.11.5
    "Laterality": frozenset({"L", "R"}),  # PS3.3 C.7.3.1
    "ImageLaterality": frozenset({"L", "R", "B", "U"}),  # PS3.3 C.8.11.1
    "PatientSex": frozenset({"M", "F", "O"}),  # PS3.3 C.7.1.1
    "BurnedInAnnotation": frozenset({"YES", "NO"}),  # PS3.3 C.7.6.1.1
    "ConversionType": frozenset(
        {"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"}
    ),  # PS3.3 C.8.6.1
    "PhotometricInterpretation": frozenset(_PHOTOMETRIC.split()),  # PS3.3 C.7.6.3.1.2
}


def defined(keyword: str, value: str) -> str:
    """`value` where the standard defines it for the attribute, "" where empty, else `UNLISTED`."""
    if not value or value in TERMS[keyword]:
        return value
    return UNLISTED
