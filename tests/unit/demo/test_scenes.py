"""The rendered scenes: deterministic, drawn as described, described truly."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image, ImageStat

from raycap.demo.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Place,
    Scene,
    attributes_right,
    is_exactly_right,
    long_captions,
    named_attributes,
    render,
    scene,
    short_caption,
    short_captions,
    write_scenes,
)

RED_STAR = Scene(
    seed=0,
    index=0,
    shape="star",
    colour="red",
    size="small",
    place="top left",
    background="plain",
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(11, index) for index in range(400)]


def test_same_seed_and_index_give_the_same_picture_and_captions() -> None:
    assert render(scene(4, 9)).tobytes() == render(scene(4, 9)).tobytes()
    assert short_caption(scene(4, 9)) == short_caption(scene(4, 9))


def test_other_seeds_and_indexes_give_other_pictures() -> None:
    pictures = {render(scene(seed, index), 64).tobytes() for seed in (1, 2) for index in range(20)}
    assert len(pictures) == 40


def test_scenes_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from zlib import crc32; from raycap.demo.scenes import render, scene, short_caption;"
        "s = scene(1, 2); print(s, short_caption(s), crc32(render(s).tobytes()))"
    )
    outputs = {
        subprocess.check_output(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": s}
        )
        for s in ("0", "1")
    }
    assert len(outputs) == 1


def test_every_value_of_every_attribute_occurs(scenes: list[Scene]) -> None:
    for name, values in zip(ATTRIBUTES, (SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS), strict=True):
        assert {getattr(each, name) for each in scenes} == set(values)


def test_short_captions_have_seven_or_eight_words(scenes: list[Scene]) -> None:
    counts = {len(caption.split()) for each in scenes for caption in short_captions(each)}
    assert counts == {7, 8}


def test_long_captions_have_seventeen_to_eighteen_words_on_average(scenes: list[Scene]) -> None:
    counts = [len(caption.split()) for each in scenes for caption in long_captions(each)]
    assert 17 <= mean(counts) <= 18


def test_long_captions_differ_and_name_every_attribute(scenes: list[Scene]) -> None:
    for each in scenes:
        captions = long_captions(each)
        assert len(set(captions)) == 5
        assert all(attributes_right(caption, each) == (5, 5) for caption in captions)


def test_short_captions_are_true_and_name_shape_and_more(scenes: list[Scene]) -> None:
    for each in scenes:
        for caption in short_captions(each):
            num_right, num_named = attributes_right(caption, each)
            assert num_right == num_named >= 2
            assert ("shape", each.shape) in named_attributes(caption)


def test_drawn_short_captions_name_every_attribute_now_and_then(scenes: list[Scene]) -> None:
    named = [name for each in scenes for name, _ in named_attributes(short_caption(each))]
    shares = {name: named.count(name) / len(scenes) for name in ATTRIBUTES}
    assert all(share > 0.25 for share in shares.values()), shares


def test_another_draw_may_name_other_attributes(scenes: list[Scene]) -> None:
    drawn = {short_caption(scenes[0], draw) for draw in range(200)}
    assert drawn == set(short_captions(scenes[0]))


def test_orange_takes_the_article_an() -> None:
    captions = short_captions(replace(RED_STAR, colour="orange"))
    assert "an orange star in the top left corner" in captions
    assert not any("a orange" in caption for caption in captions)


@pytest.mark.parametrize(
    ("caption", "right"),
    [
        ("a red star in the top left corner", True),
        ("a small red star at the top left", True),
        ("a blue star in the top left corner", False),
        ("a red star in the top right corner", False),
        ("a red red star in the top left corner", False),
        ("a picture", False),
        ("", False),
    ],
)
def test_only_a_true_short_caption_is_exactly_right(caption: str, right: bool) -> None:
    assert is_exactly_right(caption, RED_STAR) is right


def test_wrong_and_contradictory_attributes_count_as_named() -> None:
    assert attributes_right("a red or blue star at the bottom left", RED_STAR) == (2, 4)
    assert attributes_right("people walking down a street", RED_STAR) == (0, 0)


@pytest.mark.parametrize("place", PLACES)
def test_the_object_is_drawn_where_the_scene_says(place: Place) -> None:
    shown = replace(scene(5, 0), place=place, colour="red", background="plain", shape="circle")
    picture = render(shown, 96)
    hue, saturation, _ = picture.convert("HSV").split()
    vivid = saturation.point(lambda level: 255 if level > 150 else 0)
    left, top, right, bottom = vivid.getbbox() or (0, 0, 0, 0)
    across, down = (left + right) / 2 / picture.width, (top + bottom) / 2 / picture.height
    assert (across < 0.45, across > 0.55) == ("left" in place, "right" in place)
    assert (down < 0.45, down > 0.55) == ("top" in place, "bottom" in place)
    assert hue.getpixel(((left + right) // 2, (top + bottom) // 2)) in {*range(8), *range(248, 256)}


def test_a_larger_size_covers_more_of_the_picture() -> None:
    covered = []
    for size in SIZES:
        shown = replace(scene(5, 0), size=size, colour="red", background="plain", shape="square")
        saturation = render(shown, 96).convert("HSV").getchannel("S")
        covered.append(ImageStat.Stat(saturation.point(lambda s: 255 * (s > 150))).mean[0])
    small, medium, large = covered
    assert medium > 1.5 * small
    assert large > 1.5 * medium


def test_pictures_vary_in_side_and_ratio(scenes: list[Scene]) -> None:
    sides = [render(each).size for each in scenes[:60]]
    assert {max(side) for side in sides} <= set(range(128, 321))
    assert len({width / height > 1.1 for width, height in sides}) == 2
    assert max(render(scenes[0], 100).size) == 100


def test_written_files_are_sorted_readable_and_jpeg_or_png(tmp_path: Path) -> None:
    written = write_scenes(tmp_path / "scenes", 12, seed=3)
    names = [name for name, _ in written]
    assert names == sorted(path.name for path in (tmp_path / "scenes").iterdir())
    assert [shown for _, shown in written] == [scene(3, index) for index in range(12)]
    formats = set()
    for name in names:
        with Image.open(tmp_path / "scenes" / name) as picture:
            formats.add((Path(name).suffix, picture.format))
    assert formats == {(".jpg", "JPEG"), (".png", "PNG")}


def test_asking_for_more_files_leaves_the_first_ones_the_same(tmp_path: Path) -> None:
    few = write_scenes(tmp_path / "few", 3, seed=3)
    many = write_scenes(tmp_path / "many", 6, seed=3)
    assert many[:3] == few
    for name, _ in few:
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
