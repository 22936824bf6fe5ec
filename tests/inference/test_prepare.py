"""From a file to tensors: the card's resizing, exactly, in every colour."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deployments.inference.prepare import Work, file_facts, prepare, to_tensor
from deployments.inference.quality import measure
from registry.card import InputSpec
from registry.errors import UnsupportedMediaType
from tests.inference.files import FILM, LIMITS, decode, dicom_file, film_jpeg, photograph

GREY = InputSpec(height=60, width=80, scale=1, mean=(0,), std=(1,))
COLOUR = InputSpec(height=60, width=80, color="rgb", scale=1, mean=(0,) * 3, std=(1,) * 3)
SCALED = GREY.model_copy(update={"scaled_jpeg_decoding": True})


def work(body: bytes, media_type: str, *specs: InputSpec) -> Work:
    return Work(body, media_type, None, hashlib.sha256(body).hexdigest(), specs)


def test_a_grey_tensor_is_pillows_bilinear_squash() -> None:
    film = decode(dicom_file(FILM)).pixels

    prepared = prepare(work(dicom_file(FILM), "application/dicom", GREY), LIMITS)

    expected = np.asarray(Image.fromarray(film).resize((80, 60), Image.Resampling.BILINEAR))
    assert np.array_equal(prepared.tensors[0], expected[None])
    assert prepared.tensors[0].dtype == np.uint8


def test_a_colour_tensor_has_its_channels_first() -> None:
    prepared = prepare(work(photograph("rocket.jpg"), "image/jpeg", COLOUR), LIMITS)

    expected = Image.fromarray(decode(photograph("rocket.jpg"), rgb=True).pixels)
    expected = expected.resize((80, 60), Image.Resampling.BILINEAR)
    assert np.array_equal(prepared.tensors[0], np.asarray(expected).transpose(2, 0, 1))
    assert prepared.tensors[0].flags.c_contiguous


def test_models_of_different_colour_see_the_same_file() -> None:
    grey, colour = prepare(
        work(photograph("rocket.jpg"), "image/jpeg", GREY, COLOUR), LIMITS
    ).tensors

    assert (grey.shape, colour.shape) == ((1, 60, 80), (3, 60, 80))
    luma = colour.astype(float).transpose(1, 2, 0) @ [0.299, 0.587, 0.114]
    assert np.abs(grey[0] - luma).max() <= 2


def test_a_grey_image_is_grey_in_every_channel() -> None:
    tensor = to_tensor(Image.fromarray(decode(film_jpeg()).pixels), COLOUR)

    assert np.array_equal(tensor[0], tensor[1])
    assert np.array_equal(tensor[0], tensor[2])


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    exact = GREY.model_copy(update={"height": 224, "width": 224})

    tensor = to_tensor(Image.fromarray(decode(film_jpeg()).pixels), exact)
    (prepared,) = prepare(work(film_jpeg(), "image/jpeg", exact), LIMITS).tensors

    assert np.array_equal(tensor, decode(film_jpeg()).pixels[None])
    assert np.array_equal(tensor, prepared)


def test_an_image_of_the_right_size_still_gets_the_cards_colour() -> None:
    exact = COLOUR.model_copy(update={"height": 224, "width": 224})

    (colour,) = prepare(work(film_jpeg(), "image/jpeg", exact), LIMITS).tensors
    grey, both = prepare(
        work(
            film_jpeg(), "image/jpeg", GREY.model_copy(update={"height": 224, "width": 224}), exact
        ),
        LIMITS,
    ).tensors

    assert (grey.shape, colour.shape, both.shape) == ((1, 224, 224), (3, 224, 224), (3, 224, 224))
    assert np.array_equal(colour, both)


def test_a_jpeg_is_decoded_smaller_only_where_every_card_allows_it() -> None:
    large = film_jpeg(1000)

    both = prepare(work(large, "image/jpeg", SCALED, SCALED), LIMITS)
    one = prepare(work(large, "image/jpeg", SCALED, GREY), LIMITS)
    none = prepare(work(large, "image/jpeg", GREY), LIMITS)

    assert np.array_equal(one.tensors[0], none.tensors[0])
    assert not np.array_equal(both.tensors[0], none.tensors[0])
    assert np.abs(both.tensors[0].astype(int) - none.tensors[0]).max() < 40
    assert both.facts == none.facts
    assert both.measures.width_px == 1000


def test_the_facts_carry_digest_and_size() -> None:
    body = film_jpeg()

    prepared = prepare(work(body, "image/jpeg", GREY), LIMITS)

    assert prepared.facts.sha256 == hashlib.sha256(body).hexdigest()
    assert prepared.facts.size_bytes == len(body)
    assert file_facts(body) == replace(
        prepared.facts, format="", width=0, height=0, bit_depth=0, photometric=""
    )
    assert min(prepared.decode_ms, prepared.measure_ms, prepared.preprocess_ms) > 0


def test_the_measures_are_those_of_the_whole_image() -> None:
    film = dicom_file(FILM)

    prepared = prepare(work(film, "application/dicom", GREY), LIMITS)

    assert prepared.measures == measure(decode(film).pixels)


def test_a_refusal_comes_through() -> None:
    with pytest.raises(UnsupportedMediaType):
        prepare(work(film_jpeg(), "image/png", GREY), LIMITS)
