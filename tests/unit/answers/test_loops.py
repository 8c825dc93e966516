# ruff: noqa: RUF001  the letters of other scripts are meant

import pytest

from raycap.answers.loops import find_loop


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        ("A dog ", "dog dog dog dog dog dog dog"),
        ("A man in a hat and a scarf ", "and a scarf and a scarf and a scarf and a scarf"),
        ("A street. There are cars. ", "There are cars. " * 6),
        ("It is sunny. The sky is blue.\n\n", "It is sunny. The sky is blue.\n\n" * 3),
        ("A zebra and a ", "zebra and a " * 5),
        ("On the table: a cup, ", "a cup, " * 8),
        ("ha", "ha" * 40),
        ("Nice!", "!" * 60),
        ("一只狗，", "一只狗，" * 6),
        ("犬がいます。", "犬がいます。" * 4),
        ("1. a chair\n", "".join(f"{n}. a chair\n" for n in range(2, 20))),
    ],
)
def test_loops_are_found_where_their_second_round_begins(first: str, rest: str) -> None:
    assert find_loop(first + rest) == pytest.approx(len(first), abs=3)  # a mark before a number


def test_sentences_that_return_in_any_order_are_a_loop() -> None:
    one, two, three = "The dog is brown. ", "The couch is green. ", "The room is bright. "
    answer = one + two + three + two + one + three + one + one + two + three
    assert find_loop(answer) == pytest.approx(len(one + two + three), abs=1)  # or the space before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A red car, a blue car, a green car, a white car, a black car and a yellow car.",
        "Two cats, two dogs, two birds, two fish, two cows and two pigs.",
        "A cup, a cup, a plate and a cup.",
        'A sign that says "no no no no".',
        "A very, very, very big dog.",
        "Rows and rows and rows of books.",
        "| name | price |\n|------|-------|\n| tea | 1 |\n| tea | 2 |\n| cake | 3 |",
        "A timetable: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25",
        "Contents ........................................ 3",
        "A board with the number 1000000000000.",
        "The first person wears a blue shirt. The second person wears a red shirt. The third "
        "person wears a blue shirt. The fourth person wears a green shirt.",
        '[{"label": "car", "box": [1, 2, 3, 4]}, {"label": "car", "box": [5, 6, 7, 8]}, '
        '{"label": "car", "box": [9, 2, 3, 4]}, {"label": "car", "box": [5, 1, 7, 8]}]',
        str([{"label": "car", "box": [n, 3, 40 - n, 7 * n]} for n in range(20)]),
        "红色的汽车，蓝色的汽车，绿色的汽车",
        "Row 1: tea. Row 2: tea. Row 3: tea. Row 4: cake.",
    ],
)
def test_enumerations_and_tables_are_no_loops(text: str) -> None:
    assert find_loop(text) is None
