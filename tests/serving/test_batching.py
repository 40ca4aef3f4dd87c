"""Requests drawn together give what each gives alone."""

import numpy as np
import pytest
import torch

from ddgan_fast.errors import ResourceError
from ddgan_fast.serving.batching import answers, padded, work_of


@pytest.fixture(scope="module")
def pipe(make):
    return make(image_channels=3)


def test_company_does_not_show(pipe):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    mask = rng.random((8, 8)) < 0.5
    asked = [  # (seeds, arguments of pipe.edit)
        ([3, 4, 5], None),
        ([7], (first, 0.5)),
        ([7, 1], (second, 0.5)),
        ([0], (first, 1.0, mask)),
        ([9], (second, 1.0)),  # forgets its image
        ([2, 3], (first, 0.0)),
        ([6], (second, 0.5, mask)),
    ]
    works = [work_of(seeds, 4, arguments and pipe.start_from(*arguments)) for seeds, arguments in asked]
    for batch_size in (100, 2):
        for (seeds, arguments), images in zip(asked, answers(pipe, works, batch_size), strict=True):
            alone = pipe(seeds=seeds, output_type="uint8") if arguments is None else pipe.edit(*arguments, seeds=seeds, output_type="uint8")
            assert images.dtype == np.uint8 and np.array_equal(images, alone.images)


def test_batches_of_a_gpu_have_few_sizes():
    assert [padded(count, 64) for count in (1, 2, 8, 9, 64)] == [1, 8, 8, 64, 64]
    assert padded(60, 50) == 60 and padded(20, 50) == 50 and len({padded(count, 100) for count in range(1, 101)}) == 4


def test_a_mask_that_lets_all_change_gives_the_same_bits(pipe):
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    plain, masked = (pipe.edit(image, 0.5, mask, num_images=3, output_type="pt").images for mask in (None, np.ones((8, 8), bool)))
    assert torch.equal(plain, masked)


def test_an_error_reaches_those_it_concerns_alone(make, monkeypatch):
    pipe = make()
    works = [work_of([1], 4), work_of([2], 4, pipe.start_from(np.zeros((8, 8), np.uint8), 0.5)), work_of([3, 4], 4)]
    sampler, draw = pipe.sampler, pipe.sampler.sample

    def full(seeds, as_uint8=False, edit=None):
        if edit is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(seeds, as_uint8)

    monkeypatch.setattr(sampler, "sample", full)
    drawn, failed, more = answers(pipe, works, 8)
    assert drawn.shape == (1, 8, 8, 1) and more.shape == (2, 8, 8, 1)
    assert isinstance(failed, ResourceError) and "out of memory with one image" in str(failed)
