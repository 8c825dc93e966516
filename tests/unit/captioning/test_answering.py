"""From answers to rows: the gate, asking once more, types and rules for the text together."""

from collections.abc import Sequence
from typing import Any

import pytest

from raycap import schema
from raycap.captioning.answering import AnswerRules, Asked, Judged, judge_all
from raycap.captioning.prompts import prompts_of
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import ErrorCode, ImageError
from raycap.models.base import Caption, Question

REFUSAL = "I'm sorry, but I can't assist with that."


def rules(kind: str = "vlm", **sections: Any) -> AnswerRules:
    config = validate_config(CaptionConfig, sections)
    return AnswerRules(config, prompts_of(config), kind)


def answer(text: str, finish: str | None = "stop", *others: str) -> Caption:
    alternatives = tuple(Caption(text=other, logprob=-2.0) for other in others)
    return Caption(text=text, logprob=-1.0, finish=finish, num_tokens=7, alternatives=alternatives)


def test_a_good_answer_becomes_a_caption_by_the_rules() -> None:
    judged = rules(text={"prefix": "> "}).judge(answer("<think>Hm</think>A dog."), 0)
    assert judged.columns[schema.CAPTION] == "> A dog."
    assert schema.FLAG not in judged.columns
    assert not judged.asks_again


def test_a_kept_answer_is_flagged() -> None:
    columns = rules("blip").judge(answer("a dog on", "length"), 0).columns
    assert (columns[schema.CAPTION], columns[schema.FLAG]) == ("a dog on", "truncated")
    assert schema.STATUS not in columns


def test_a_failed_answer_keeps_its_tokens() -> None:
    columns = rules().judge(answer(REFUSAL), 0).columns
    assert (columns[schema.STATUS], columns[schema.ERROR_CODE]) == ("failed", "refused")
    assert (columns[schema.FINISH], columns[schema.NUM_TOKENS]) == ("stop", 7)
    assert schema.CAPTION not in columns


def test_alternatives_are_judged_too() -> None:
    given = answer("A dog.", "stop", REFUSAL, "A brown dog.", "<think>Hm</think>A pet.")
    columns = rules(text={"keep_answer": True}).judge(given, 0).columns
    others = [other[schema.CAPTION] for other in columns[schema.ALTERNATIVES]]
    assert others == ["A brown dog.", "A pet."]
    assert len(columns[schema.OTHER_ANSWERS]) == 2


def test_the_answer_is_kept_as_the_gate_left_it() -> None:
    kept = rules(text={"keep_answer": True, "case": "upper"})
    columns = kept.judge(answer("<think>Hm</think>A dog."), 0).columns
    assert (columns[schema.ANSWER], columns[schema.CAPTION]) == ("A dog.", "A DOG.")
    assert kept.judge(answer(REFUSAL), 0).columns[schema.ANSWER] == REFUSAL


TYPED: Any = {"prompts": {"tags": {"text": "Which tags fit?", "choices": ["dog", "cat"]}}}
SAMPLED = {"num_beams": 1, "sampling": {"enabled": True}}


def test_a_typed_answer_is_read_behind_the_reasoning() -> None:
    judged = rules(**TYPED).judge(answer('<think>A dog.</think>["dog"]'), 0)
    assert judged.columns[schema.VALUE] == '["dog"]'
    assert judged.verdict.code is None


def test_a_wrong_type_is_asked_again_and_then_fails() -> None:
    judged = rules(**TYPED, generation=SAMPLED).judge(answer('["cow"]'), 0)
    assert judged.asks_again
    assert judged.columns[schema.ERROR_CODE] == "wrong_type"


def test_a_search_that_would_find_the_same_is_not_asked_again() -> None:
    judged = rules(**TYPED)
    assert not judged.judge(answer('["cow"]'), 0).asks_again
    assert judged.judge(answer('["do', "length"), 0).asks_again


def test_a_wrong_type_can_be_kept() -> None:
    columns = rules(**TYPED, answers={"wrong_type": "keep"}).judge(answer("a dog"), 0).columns
    assert (columns[schema.CAPTION], columns[schema.FLAG]) == ("a dog", "wrong_type")
    assert schema.VALUE not in columns


def test_rules_that_leave_nothing_fail_a_flagged_answer() -> None:
    given = {"replace": [{"find": ".*", "with": "", "regex": True}]}
    columns = rules("blip", text=given).judge(answer("a dog on", "length"), 0).columns
    assert columns[schema.ERROR_CODE] == "text_failed"
    assert schema.FLAG not in columns


def test_an_empty_caption_of_a_model_with_a_fixed_style_stays_as_it_is() -> None:
    columns = rules("blip").judge(answer(""), 0).columns
    assert (columns[schema.CAPTION], columns[schema.FLAG]) == ("", "empty_answer")


def test_a_question_is_repeated_with_twice_the_tokens_and_another_seed() -> None:
    asked = rules(generation={"num_beams": 1, "max_new_tokens": 50, "sampling": {"seed": 3}})
    assert asked.again(Question(text="What?")) == Question(
        text="What?", max_new_tokens=100, is_shortened=True, seed=4
    )
    again = asked.again(Question(text="What?", max_new_tokens=8, seed=1, json_schema="{}"))
    assert again == Question(
        text="What?", max_new_tokens=16, is_shortened=True, seed=2, json_schema="{}"
    )


class Model:
    """Gives answers by its script when it is asked again."""

    def __init__(self, *answers: Caption | ImageError) -> None:
        self.answers = answers
        self.asked: list[tuple[int, Question]] = []

    def ask(self, images: list[int], questions: list[Question]) -> list[Caption | ImageError]:
        self.asked += zip(images, questions, strict=True)
        return list(self.answers)


ASKED: Asked = ((0,), [Question(text="What is shown?")])


def settled(
    model: Model, *outcomes: Sequence[Caption] | ImageError, asks: bool = True
) -> list[list[Judged] | ImageError]:
    ask_again = model.ask if asks else None
    return judge_all(rules(), outcomes, [ASKED] * len(outcomes), ask_again)


def columns_of(judged: list[Judged] | ImageError) -> dict[str, Any]:
    assert isinstance(judged, list)
    return judged[0].columns


def test_only_bad_answers_are_asked_again() -> None:
    model = Model(answer("A dog sleeps on a couch."))
    gone = ImageError(ErrorCode.MODEL_REJECTED, "no")
    first, second, third = settled(model, [answer("A cat.")], gone, [answer("A dog sl", "length")])
    assert columns_of(first)[schema.CAPTION] == "A cat."
    assert second is gone
    assert columns_of(third)[schema.CAPTION] == "A dog sleeps on a couch."
    assert [(image, question.max_new_tokens) for image, question in model.asked] == [(2, 40)]


def test_the_first_answer_counts_if_the_second_is_worse() -> None:
    model = Model(answer(REFUSAL))
    (judged,) = settled(model, [answer("A dog. It is", "length")])
    assert columns_of(judged)[schema.CAPTION] == "A dog."


def test_the_first_answer_counts_if_the_model_rejects_the_image_then() -> None:
    model = Model(ImageError(ErrorCode.MODEL_REJECTED, "no"))
    (judged,) = settled(model, [answer("A dog. It is", "length")])
    assert columns_of(judged)[schema.FLAG] == "truncated"


def test_a_model_without_questions_is_not_asked_again() -> None:
    (judged,) = settled(Model(), [answer("A dog. It is", "length")], asks=False)
    assert columns_of(judged)[schema.CAPTION] == "A dog."


@pytest.mark.parametrize("kind", ["blip", "stub"])
def test_models_with_a_fixed_style_are_never_asked_again(kind: str) -> None:
    assert not rules(kind).judge(answer("a dog on", "length"), 0).asks_again
