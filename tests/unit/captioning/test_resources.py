from raycap.captioning.resources import fit_blocks
from raycap.models.base import BatchRange

PIXELS = 384 * 384 * 3
GPU = BatchRange(least=16, most=128)


def test_only_large_runs_of_fast_models_on_small_images_get_large_blocks() -> None:
    many = 200 * 512 * 8
    assert fit_blocks(GPU, PIXELS, many, 8) == 4
    assert fit_blocks(GPU, PIXELS, many - 1, 8) == 2
    assert fit_blocks(BatchRange(least=4, most=16), PIXELS, many, 1) == 2
    assert fit_blocks(GPU, 1024 * 1024 * 3, many, 8) == 2
