import pytest
from pydantic import ValidationError

from raycap.answers.gate import Gate, Verdict, cut
from raycap.config import AnswersConfig
from raycap.errors import ANSWER_CODES, ErrorCode
from tests.support.good_answers import good_answers
from tests.support.planted_answers import planted_answers, planted_languages

PROMPT = "Describe this image in one sentence."
LOOP = "A dog sleeps on a couch. It is brown. " + "The couch is green. " * 9


def gate(*, is_fixed_style: bool = False, is_repeatable: bool = False, **settings: str) -> Gate:
    config = AnswersConfig.model_validate(settings)
    return Gate(config, is_fixed_style=is_fixed_style, is_repeatable=is_repeatable)


def judge(answer: str, finish: str | None = "stop", **settings: str) -> Verdict:
    config = AnswersConfig.model_validate(settings)
    return Gate(config, is_fixed_style=False).judge(answer, finish=finish, prompt=PROMPT)


def test_planted_answers_are_found() -> None:
    planted = list(planted_answers(170))
    judged = gate()
    found = [judged.judge(a.text, finish=a.finish, prompt=a.prompt).code for a in planted]
    for code in {answer.code for answer in planted}:
        of_code = [f for f, answer in zip(found, planted, strict=True) if answer.code == code]
        assert len(of_code) >= 170
        assert of_code.count(code) / len(of_code) >= 0.99, code


def test_answers_in_another_language_are_found() -> None:
    codes = [judge(text, language=asked).code for asked, text in planted_languages(170)]
    assert codes.count(ErrorCode.WRONG_LANGUAGE) / len(codes) >= 0.99


def test_good_answers_pass_unchanged() -> None:
    assert _num_false_alarms(1_500) <= 1


@pytest.mark.slow
def test_of_ten_thousand_good_answers_at_most_ten_are_flagged() -> None:
    assert _num_false_alarms(10_000) <= 10


def _num_false_alarms(num: int) -> int:
    gates: dict[str, Gate] = {}
    num_flagged = 0
    for answer in good_answers(num):
        asked = gates.setdefault(answer.language, gate(language=answer.language))
        verdict = asked.judge(answer.text, finish="stop", prompt=answer.prompt)
        num_flagged += verdict.code is not None or verdict.text != answer.text
    return num_flagged


def test_a_good_answer_is_kept() -> None:
    assert judge("A dog.") == Verdict(text="A dog.")


def test_reasoning_is_taken_off_a_good_answer() -> None:
    assert judge("<think>Hm.</think>\n\nA dog.") == Verdict(text="A dog.")


def test_an_unknown_finish_is_not_judged() -> None:
    assert judge("A dog on", None).code is None


@pytest.mark.parametrize(
    ("action", "outcome", "text", "asks_again"),
    [
        ("keep", "keep", "A dog sleeps. It is", False),
        ("cut", "cut", "A dog sleeps.", False),
        ("fail", "fail", "A dog sleeps. It is", False),
        ("retry_keep", "keep", "A dog sleeps. It is", True),
        ("retry_cut", "cut", "A dog sleeps.", True),
        ("retry_fail", "fail", "A dog sleeps. It is", True),
    ],
)
def test_the_setting_decides_what_happens(
    action: str, outcome: str, text: str, asks_again: bool
) -> None:
    verdict = judge("A dog sleeps. It is", "length", truncated=action)
    assert (verdict.code, verdict.outcome) == (ErrorCode.TRUNCATED, outcome)
    assert (verdict.text, verdict.asks_again) == (text, asks_again)
    error = verdict.error
    assert (error and error.code) == (ErrorCode.TRUNCATED if outcome == "fail" else None)


def test_a_loop_is_cut_where_it_begins() -> None:
    verdict = judge(LOOP, "length", repeated="cut")
    assert verdict.text == "A dog sleeps on a couch. It is brown. The couch is green."
    assert verdict.code == ErrorCode.REPEATED


def test_a_loop_without_a_sentence_is_cut_at_a_word() -> None:
    assert (
        judge("a hat and a hat and a hat and a hat and a hat", repeated="cut").text == "a hat and"
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog. It is brown. The", "A dog. It is brown."),
        ("A dog. It is brown.", "A dog. It is brown."),
        ("A dog on a gre", "A dog on a"),
        ("- a dog\n- a cat\n- a mou", "- a dog\n- a cat"),
        ("Dr. Smith wears a whi", "Dr. Smith wears a"),
        ("犬がいます。猫が", "犬がいます。"),
        ('He says "Stop!" The wom', 'He says "Stop!"'),
        ("Supercalifragi", "Supercalifragi"),
    ],
)
def test_text_is_cut_at_the_last_complete_sentence_or_word(text: str, kept: str) -> None:
    assert cut(text) == kept


def test_models_with_a_fixed_style_are_only_flagged() -> None:
    judged = gate(is_fixed_style=True)
    for answer in planted_answers(10):
        if answer.code == ErrorCode.REASONING_ONLY:
            continue  # the text changes where there is a block, which no such model writes
        verdict = judged.judge(answer.text, finish=answer.finish, prompt=answer.prompt)
        assert (verdict.code, verdict.text) == (answer.code, answer.text)
        assert (verdict.outcome, verdict.asks_again, verdict.error) == ("keep", False, None)


def test_a_setting_takes_precedence_over_the_kind_of_model() -> None:
    verdict = gate(is_fixed_style=True, truncated="fail").judge("A", finish="length", prompt="")
    assert verdict.error is not None


def test_a_repeatable_model_is_asked_again_only_for_more_tokens() -> None:
    judged = gate(is_repeatable=True)
    assert judged.judge("<think>Hm", finish="length", prompt=PROMPT).asks_again
    assert not judged.judge("<think>Hm", finish="stop", prompt=PROMPT).asks_again
    assert not judged.judge(LOOP, finish="length", prompt=PROMPT).asks_again


GOOD = Verdict(text="A dog.")
FLAGGED = Verdict(text="A", code=ErrorCode.TRUNCATED, outcome="cut", asks_again=True)
FAILED = Verdict(text="", code=ErrorCode.REFUSED, outcome="fail", asks_again=True)


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        (FLAGGED, GOOD, GOOD),
        (FAILED, FLAGGED, FLAGGED),
        (FLAGGED, FAILED, FLAGGED),
        (FAILED, FAILED, FAILED),
    ],
)
def test_the_better_of_two_answers_is_kept(
    first: Verdict, second: Verdict, better: Verdict
) -> None:
    assert first.settle(second) is better


def test_the_second_of_two_equal_answers_is_kept() -> None:
    second = Verdict(text="A dog on", code=ErrorCode.TRUNCATED, outcome="cut")
    assert FLAGGED.settle(second) is second


def test_an_answer_that_the_server_withheld_is_refused() -> None:
    assert judge("A dog", "content_filter").code == ErrorCode.REFUSED
    assert judge("", "content_filter").code == ErrorCode.REFUSED  # not asked again, and paid again


def test_a_json_value_may_repeat_itself() -> None:
    boxes = str([[0, 0], [0, 0]] * 20) + " a cup" * 9
    assert gate().judge(boxes, finish="stop", prompt=PROMPT, is_typed=True).code is None
    assert gate().judge(boxes, finish="length", prompt=PROMPT, is_typed=True).code is None


def test_a_known_fault_gets_its_action() -> None:
    verdict = gate().found(ErrorCode.WRONG_TYPE, '{"a"', finish="stop", reason="no value for b")
    assert (verdict.code, verdict.outcome, verdict.asks_again) == ("wrong_type", "fail", True)
    assert verdict.error is not None
    assert verdict.error.message == "no value for b"


def test_every_code_of_answers_has_a_setting() -> None:
    assert {str(code) for code in ANSWER_CODES} <= AnswersConfig.model_fields.keys()


@pytest.mark.parametrize("code", ["refused", "empty_answer", "reasoning_only", "copied_prompt"])
def test_an_answer_without_a_good_part_cannot_be_cut(code: str) -> None:
    with pytest.raises(ValidationError):
        AnswersConfig.model_validate({code: "cut"})


@pytest.mark.parametrize(
    "answer",
    [
        "A picture of a dog",
        "Describe this image in one sentence. A dog sleeps on a couch.",
        "This image is described in one sentence",
        "one sentence",
    ],
)
def test_an_answer_that_adds_to_its_prompt_is_no_copy(answer: str) -> None:
    assert judge(answer).code is None


def test_a_short_prompt_that_an_answer_continues_is_no_copy() -> None:
    verdict = gate().judge("a picture of a dog", finish="stop", prompt="a picture of")
    assert verdict.code is None
