"""Answers of local models that follow a JSON schema."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from raycap.answers.typed import AnswerType, choices_schema
from raycap.config import GenerationConfig, SamplingConfig
from raycap.models.base import Question
from raycap.models.sources import find_model
from raycap.models.vlm.captioner import VlmCaptioner, load_vlm
from raycap.models.vlm.constrained import JsonGrammars
from tests.support import tiny_blip
from tests.support.tiny_vlm import random_images, save_spelling_vlm

_one_thread = tiny_blip.one_thread
T: Any = transformers  # partly untyped there
PAD, START, END, OTHER_END = range(4)
SCHEMAS = [
    choices_schema(["dog", "cat", "bird"]),
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["day", "night"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "is_sharp": {"type": "boolean"},
        },
        "required": ["kind", "is_sharp"],
    },
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte a token, so that any JSON can be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<pad>", "<s>", "</s>", "<end>", *alphabet]
    backend: Any = tokenizers.Tokenizer(
        models.BPE({token: place for place, token in enumerate(vocabulary)}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return T.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<end>"],
    )


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    """A random model, whose vocabulary is padded, as those of many are."""
    torch.manual_seed(3)
    config = T.GPT2Config(
        vocab_size=len(tokenizer) + 5,
        n_positions=128,
        n_embd=16,
        n_layer=1,
        n_head=1,
        bos_token_id=START,
        eos_token_id=END,
    )
    network = T.GPT2LMHeadModel(config).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0, 0.5)
    network.generation_config.eos_token_id = [END, OTHER_END]
    return network


@pytest.mark.parametrize("schema", SCHEMAS, ids=["choices", "object"])
@pytest.mark.parametrize(
    "search",
    [{}, {"num_beams": 4, "num_return_sequences": 3}, {"do_sample": True, "temperature": 3.0}],
    ids=["greedy", "beams", "sampling"],
)
def test_every_finished_answer_is_of_the_type(
    model: Any, tokenizer: Any, schema: dict[str, Any], search: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    answers = AnswerType(schema)
    grammars = JsonGrammars(tokenizer, [END, OTHER_END])
    prompts = torch.tensor([[START, 40, 50 + row] for row in range(6)])
    written = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=100,
        pad_token_id=PAD,
        logits_processor=[grammars.following(json.dumps(schema))],
        **search,
    )[:, prompts.shape[1] :]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in written]
    is_whole = [any(token in (END, OTHER_END) for token in row) for row in written.tolist()]
    values = [answers.parse(text) for text, whole in zip(texts, is_whole, strict=True) if whole]
    assert sum(is_whole) >= len(texts) // 2
    assert len(set(texts)) > 1 or search == {}
    assert answers.array([json.dumps(value) for value in values]).null_count == 0
    for text, whole in zip(texts, is_whole, strict=True):
        assert whole or text[0] in "[{"  # cut by the maximum of tokens


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    "generation",
    [
        GenerationConfig(num_beams=1, max_new_tokens=40),
        GenerationConfig(num_beams=3, max_new_tokens=40),
        GenerationConfig(
            num_beams=1, max_new_tokens=40, sampling=SamplingConfig(enabled=True, temperature=3.0)
        ),
    ],
    ids=["greedy", "beams", "sampling"],
)
def test_a_captioner_follows_the_type_of_each_question(
    tmp_path: Path, generation: GenerationConfig
) -> None:
    save_spelling_vlm(tmp_path)
    target = find_model(str(tmp_path)).target
    network, processor = load_vlm(tmp_path, torch.float32)
    captioner = VlmCaptioner(network, processor, target, generation)
    kind = {"enum": ["dog", "cat", "bird"]}
    tags = {**choices_schema(["red", "blue"]), "minItems": 1}
    asked = [
        Question(text="describe"),
        Question(text="kind", json_schema=json.dumps(kind)),
        Question(text="tags", json_schema=json.dumps(tags)),
    ]
    pixels = random_images(3, target.width_px)
    answers = captioner.answer(pixels, [asked] * 3)
    for plain, one, several in answers:
        assert one.text in ('"dog"', '"cat"', '"bird"')
        assert one.finish == "stop"
        assert several.finish == "length" or AnswerType(tags).parse(several.text)
        assert plain.text[:1] not in '["'
    alone = [captioner.answer(image[None], [asked])[0] for image in pixels]
    assert [[one.text for one in row] for row in alone] == [
        [one.text for one in row] for row in answers
    ]
