"""Captions of Flickr8k and Flickr30k, in every form in which they are shared."""

from pathlib import Path

import pytest

from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import ConfigError, DatasetError
from tests.support.annotated import BOM, brief, captions, format_of, places, read, write

CSV = (
    "image,caption\n"
    "1.jpg,A child in a pink dress .\n"
    '1.jpg,"A girl , said to be ""small"" , climbs ."\n'
    "2.jpg,Two dogs , one of them black , run .\n"
)
TOKENS = "1.jpg#0\tA child in a pink dress .\n1.jpg#1\tA girl climbs .\n2.jpg#0\tTwo dogs run .\n"
BARS = (
    "image_name| comment_number| comment\n"
    "1.jpg| 0| Two young guys , with shaggy hair .\n"
    "1.jpg| 1| Two men | outside .\n"
    "2.jpg| 4   A dog runs across the grass .\n"  # as it stands in Flickr30k: a bar is missing
)


def test_a_table_of_captions_is_read_with_its_commas_quoted_or_not(tmp_path: Path) -> None:
    write(tmp_path, {"captions.txt": CSV, "Images/1.jpg": "x"})
    rows = read(tmp_path)
    assert format_of(tmp_path) == format_of(tmp_path / "captions.txt") == AnnotationFormat.FLICKR
    assert captions(rows) == [
        ("1.jpg", "A child in a pink dress ."),
        ("1.jpg", 'A girl , said to be "small" , climbs .'),
        ("2.jpg", "Two dogs , one of them black , run ."),
    ]
    assert places(rows, tmp_path) == {"1.jpg": "Images/1.jpg", "2.jpg": "Images/2.jpg"}
    assert read(tmp_path / "captions.txt") == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Flickr8k.token.txt", TOKENS),
        ("Flickr8k_text/Flickr8k.token.txt", TOKENS),
        ("results_20130124.token", TOKENS),
        ("captions.txt", TOKENS),
        ("captions.txt", BOM + TOKENS.replace("\n", "\r\n")),
    ],
)
def test_token_files_are_read(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path, {name: content, "Flicker8k_Dataset/1.jpg": "x"})
    assert format_of(tmp_path) == AnnotationFormat.FLICKR
    rows = read(tmp_path)
    assert captions(rows) == [
        ("1.jpg", "A child in a pink dress ."),
        ("1.jpg", "A girl climbs ."),
        ("2.jpg", "Two dogs run ."),
    ]
    assert places(rows, tmp_path)["1.jpg"] == "Flicker8k_Dataset/1.jpg"


def test_results_with_bars_are_read_where_a_bar_is_missing_too(tmp_path: Path) -> None:
    write(tmp_path, {"results.csv": BARS, "flickr30k_images/2.jpg": "x"})
    assert format_of(tmp_path / "results.csv") == AnnotationFormat.FLICKR
    assert captions(read(tmp_path)) == [
        ("1.jpg", "Two young guys , with shaggy hair ."),
        ("1.jpg", "Two men | outside ."),
        ("2.jpg", "A dog runs across the grass ."),
    ]


def test_splits_come_from_the_lists_of_images_beside_the_captions(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "Flickr8k.token.txt": TOKENS + "3.jpg#0\tA cat .\n4.jpg#0\tA cow .\n",
            "Flickr_8k.trainImages.txt": "1.jpg\n",
            "Flickr_8k.devImages.txt": "2.jpg\r\n\r\n",
            "Flickr_8k.testImages.txt": "3.jpg\n5.jpg",
        },
    )
    found = dict(brief(read(tmp_path), "image_id", "split"))
    assert found == {
        "1.jpg": "train",
        "2.jpg": "validation",
        "3.jpg": "test",
        "4.jpg": None,
        "5.jpg": "test",  # in a list, without a caption: to be rejected
    }
    assert read(tmp_path)[-1]["caption"] is None


def test_lines_that_are_none_are_kept_to_be_rejected(tmp_path: Path) -> None:
    lost = "no tab here\n\n2.jpg#0\tgood\n\x00#1\t\n"
    write(tmp_path, {"captions.txt": TOKENS + lost})
    assert brief(read(tmp_path)[3:], "image_id", "uri", "caption") == [
        ("(row 4 of captions.txt)", None, None),
        ("2.jpg", f"{tmp_path}/2.jpg", "good"),
        ("\x00", f"{tmp_path}/\x00", ""),
    ]


def test_rows_of_a_table_with_too_few_fields_are_kept_to_be_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"captions.txt": "image,caption\n1.jpg\n,orphan\n\n2.jpg,\n"})
    assert brief(read(tmp_path), "image_id", "uri", "caption") == [
        ("1.jpg", f"{tmp_path}/1.jpg", None),
        ("(row 2 of captions.txt)", None, "orphan"),
        ("2.jpg", f"{tmp_path}/2.jpg", ""),
    ]


def test_text_that_is_not_utf_8_is_no_caption(tmp_path: Path) -> None:
    write(tmp_path, {"captions.txt": b"1.jpg#0\tcaf\xe9\n1.jpg#1\tcaf\xc3\xa9\n"})
    assert captions(read(tmp_path)) == [("1.jpg", None), ("1.jpg", "café")]


def test_the_error_for_an_unclosed_quote_states_its_line(tmp_path: Path) -> None:
    write(tmp_path, {"captions.txt": 'image,caption\n1.jpg,a\n2.jpg,"b\n3.jpg,c\n'})
    with pytest.raises(DatasetError, match=r"row 2: .*CSV: .*line 3 ") as caught:
        read(tmp_path)
    assert caught.value.uri == str(tmp_path / "captions.txt")


def test_a_text_in_another_format_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"captions.txt": "Dear all,\nthese are photos.\n"})
    for source in (tmp_path, tmp_path / "captions.txt"):
        with pytest.raises(ConfigError) as caught:
            read(source)
        assert caught.value.uri == str(source)
    with pytest.raises(DatasetError, match="Flickr") as damaged:
        read(tmp_path / "captions.txt", AnnotationFormat.FLICKR)
    assert damaged.value.uri == str(tmp_path / "captions.txt")
