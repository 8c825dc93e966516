"""Small random vision-language models of several families, saved without any network."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from jaxtyping import UInt8
from tokenizers import decoders, models, pre_tokenizers, processors

from raycap.errors import ANSWER_CODES

KEPT_ANSWERS = dict.fromkeys(map(str, ANSWER_CODES), "keep")
"""Settings `answers` with which the answers of random weights stay as they are: many are loops, and
reach the maximum number of tokens."""

T: Any = transformers  # partly untyped there
SPECIALS = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
PAD, UNK, BOS, EOS, IMAGE = range(5)
_MARKS = (
    "<|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|> <fake_token_around_image> "
    "<end_of_utterance> <global-img>"
)
_WORDS = (
    "a the red blue big small dog cat bird car tree on in under sits runs sleeps and picture of "
    "Describe this image one sentence . What does describe ? User Assistant :"
)
MARKS, WORDS = _MARKS.split(), _WORDS.split()
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
NUM_TOKENS = len(SPECIALS) + len(MARKS) + len(TILES) + len(WORDS)
ENDS = [EOS, *range(NUM_TOKENS - 6, NUM_TOKENS)]
TEMPLATE = (
    "{% for message in messages %}User : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}Assistant :{% endif %}"
)
TEXT = {
    "vocab_size": NUM_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,  # of 32: vLLM has none smaller on a CPU
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 28,
}


def save_vlm(family: str, folder: Path) -> Path:
    """Save a random model of a family, with its processor."""
    torch.manual_seed(6)
    model, processor = FAMILIES[family]()
    _randomise(model)
    # Several tokens may end a caption, as of Qwen-VL: so some end early.
    model.generation_config.eos_token_id = ENDS
    # Else captions would hold placeholders of images, which no model reads twice.
    model.generation_config.suppress_tokens = list(range(IMAGE, IMAGE + 1 + len(MARKS + TILES)))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_spelling_vlm(folder: Path) -> Path:
    """Save a random Qwen2-VL whose tokens are letters, so that it can write JSON."""
    save_vlm("qwen2_vl", folder)
    processor = T.AutoProcessor.from_pretrained(folder)
    processor.tokenizer = spelling_tokenizer(
        image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    processor.save_pretrained(folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": EOS}))
    return folder


def random_images(num_images: int, side_px: int) -> UInt8[np.ndarray, "b h w 3"]:
    """Blocks of colour: noise alone would look the same to a random vision model."""
    blocks = np.random.default_rng(1).integers(0, 256, (num_images, 4, 4, 3), dtype=np.uint8)
    return blocks.repeat(side_px // 4, axis=1).repeat(side_px // 4, axis=2)


def _randomise(model: Any) -> None:
    """Draw weights so large that captions differ by image and some end early."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower() and weight.ndim > 1:
                weight.normal_(0, 0.3)
        # Placeholders of images, whose own vector is never read, are said by no model then.
        model.get_input_embeddings().weight[IMAGE] = 0.0


def _tokenizer(**named: str) -> Any:
    """A word a token; `named` become its own special tokens, as `image_token`."""
    vocabulary = [*SPECIALS, *MARKS, *TILES, *WORDS]
    backend: Any = tokenizers.Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return T.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_specific_special_tokens=named,
        extra_special_tokens=[*MARKS, *TILES],
    )


def spelling_tokenizer(**named: str) -> Any:
    """As many tokens, but instead of words the letters and marks that JSON is written with."""
    letters = [*'[]{}":,Ġ', *"abcdefghijklmnopqrstuvwxyz", *"0123456789"][: len(WORDS)]
    assert len(letters) == len(WORDS)
    vocabulary = [*SPECIALS, *MARKS, *TILES, *letters]
    backend: Any = tokenizers.Tokenizer(
        models.BPE({token: at for at, token in enumerate(vocabulary)}, [], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return T.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_specific_special_tokens=named,
        extra_special_tokens=[*MARKS, *TILES],
    )


def _blip2() -> tuple[Any, Any]:
    left_out = ("intermediate_size", "num_key_value_heads")
    text = {name: value for name, value in TEXT.items() if name not in left_out}
    opt = {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}
    sizes = {name: VISION[name] for name in VISION if name not in ("patch_size", "image_size")}
    config = T.Blip2Config(
        vision_config=VISION,
        qformer_config={**sizes, "encoder_hidden_size": 32, "vocab_size": NUM_TOKENS},
        text_config={**text, **opt},
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    size = {"height": 28, "width": 28}
    processor = T.Blip2Processor(T.BlipImageProcessor(size=size), _tokenizer(), num_query_tokens=4)
    return T.Blip2ForConditionalGeneration(config), processor


def _florence2() -> tuple[Any, Any]:
    bart = {
        "model_type": "bart",
        "vocab_size": NUM_TOKENS,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 128,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "decoder_start_token_id": EOS,
    }
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 16, 16),
        "num_heads": (1, 1, 2, 2),
        "num_groups": (1, 1, 2, 2),
        "window_size": 4,
        "projection_dim": 32,
        "drop_path_rate": 0.0,
    }
    config = T.Florence2Config(text_config=bart, vision_config=vision, image_token_id=IMAGE)
    model = T.Florence2ForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = BOS
    model.generation_config.decoder_start_token_id = EOS
    model.generation_config.forced_eos_token_id = EOS
    # What such folders are saved with; none of it may come through, nor the forced end.
    model.generation_config.num_beams = 2
    model.generation_config.no_repeat_ngram_size = 3
    size = {"height": 64, "width": 64}
    images = T.CLIPImageProcessor(size=size, do_center_crop=False)
    images.image_seq_length = 5
    return model, T.Florence2Processor(images, _tokenizer(image_token="<image>"))


def _idefics3(name: str = "Idefics3") -> tuple[Any, Any]:
    config = getattr(T, f"{name}Config")(
        vision_config=VISION,
        text_config={**TEXT, "model_type": "llama"},
        image_token_id=IMAGE,
        scale_factor=2,
    )
    sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
    images = getattr(T, f"{name}ImageProcessor")(**sizes)
    tokenizer = _tokenizer(image_token="<image>")
    parts = [images, tokenizer]
    if name == "SmolVLM":
        parts.append(T.SmolVLMVideoProcessor(**sizes))
    template = TEMPLATE.replace("IMAGE", "<image>")
    processor = getattr(T, f"{name}Processor")(*parts, image_seq_len=1, chat_template=template)
    return getattr(T, f"{name}ForConditionalGeneration")(config), processor


def _llava() -> tuple[Any, Any]:
    config = T.LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model"},
        text_config={**TEXT, "model_type": "llama"},
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    images = T.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = T.LlavaProcessor(
        images,
        _tokenizer(image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return T.LlavaForConditionalGeneration(config), processor


def _qwen2_vl(name: str = "Qwen2VL") -> tuple[Any, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]}
    tokenizer = _tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>")
    ids = tokenizer.convert_tokens_to_ids
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 32, "num_heads": 2}
    if name == "Qwen2VL":
        vision |= {"embed_dim": 32}
    else:  # windows of four patches, in the first layer only
        vision |= {"out_hidden_size": 32, "intermediate_size": 48, "window_size": 56}
        vision |= {"fullatt_block_indexes": [1]}
    config = getattr(T, f"{name}Config")(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    area = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = getattr(T, f"{name}Processor")(
        T.Qwen2VLImageProcessor(size=area),
        tokenizer,
        T.Qwen2VLVideoProcessor(size=area),
        chat_template=TEMPLATE.replace("IMAGE", mark),
    )
    return getattr(T, f"{name}ForConditionalGeneration")(config), processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "blip-2": _blip2,
    "florence2": _florence2,
    "idefics3": _idefics3,
    "smolvlm": partial(_idefics3, "SmolVLM"),
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": partial(_qwen2_vl, "Qwen2_5_VL"),
}
