import pytest

from raycap.answers.reasoning import without_reasoning, without_special_tokens

ANSWER = "A dog sleeps on a couch."


@pytest.mark.parametrize(
    "text",
    [
        "<think>Is it a dog?</think>{}",
        "<think>\nIs it a dog?\nYes.\n</think>\n\n{}",
        "<THINKING>hm</THINKING> {}",
        "< reasoning >hm</ reasoning >\n{}",
        "Okay, the user wants a caption.\n</think>\n\n{}",
        "<think>a <think>b</think> c</think>{}",
        "<think>a</think><think>b</think>{}\n",
        "◁think▷Hm, a dog.◁/think▷{}",
        "[THINK]Hm[/THINK]{}",
        "<seed:think>hm</seed:think>{}",
        "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>",
        "<think>hm</think><answer>{}</answer>",
        "<think>hm</think><|begin_of_box|>{}<|end_of_box|>",
        "<unused94>thought\nhm<unused95>{}",
        "<|channel>thought\nhm<channel|>{}",
        "<|channel|>analysis<|message|>A dog.<|end|><|start|>assistant<|channel|>final"
        "<|message|>{}<|return|>",
        "<|channel|>analysis<|message|>A dog.<|end|><|channel|>commentary<|message|>hm<|end|>"
        "<|start|>assistant<|channel|>final<|message|>{}",
        "analysisThe user wants a caption.assistantfinal{}",
        "<think>hm</think>{}<|im_end|>",
    ],
)
def test_reasoning_is_taken_off(text: str) -> None:
    assert without_reasoning(text.format(ANSWER)) == (ANSWER, True)


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm",
        "  <think>\nhm\n\nmore",
        "◁think▷hm",
        "hm</think>",
        "<|channel|>analysis<|message|>hm",
        "analysisWe need a caption",
        "<think></think>",
    ],
)
def test_nothing_remains_of_reasoning_alone(text: str) -> None:
    assert without_reasoning(text) == ("", True)


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        "",
        " A dog. \n",
        'A screen with the HTML tag "<think>" in a text editor.',
        "An analysis of the market is on the screen",
        "analysis of a chart",
        "A T-shirt that says think! and a <3",
        "a person thinking about <b>bold</b> text",
    ],
)
def test_an_answer_without_reasoning_stays_as_it_is(text: str) -> None:
    assert without_reasoning(text) == (text, False)


def test_an_answer_before_reasoning_is_kept() -> None:
    assert without_reasoning(f"{ANSWER}\n<think>Was that right?</think>") == (ANSWER, True)
    assert without_reasoning(f"{ANSWER}\n<think>Was that") == (ANSWER, True)


def test_special_tokens_are_removed() -> None:
    assert without_special_tokens(f"{ANSWER}<|im_end|></s>") == ANSWER
