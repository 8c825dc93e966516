"""The decoders against references, and the search with them against brute force."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raycap.config import GenerationConfig
from raycap.models.decoding import decode
from raycap.models.scratch.decoders import Decoder, ReadingState
from raycap.models.scratch.hybrid import HybridDecoder
from raycap.models.scratch.model import build_network
from raycap.models.scratch.tokenizer import END, START
from raycap.models.scratch.transformer import TransformerDecoder, sinusoids
from tests.support.tiny_scratch import KINDS, describe, one_thread

__all__ = ["one_thread"]

NUM_TOKENS, NUM_CELLS, NUM_CHANNELS = 40, 9, 256


def make(kind: str, num_tokens: int = NUM_TOKENS, **settings: Any) -> Decoder:
    torch.manual_seed(5)
    sizes = {"width": 32, "num_layers": 2, "dropout": 0.3, **settings}
    decoder = build_network(describe(kind, num_tokens, **sizes)).decoder.eval()
    with torch.no_grad():  # so that captions differ between images, and none is a near tie
        for name, value in decoder.named_parameters():
            if value.ndim > 1 and "norm" not in name:
                value.mul_(2.0)
    return decoder


def grids(num_images: int) -> Tensor:
    return torch.randn(
        num_images, NUM_CELLS, NUM_CHANNELS, generator=torch.Generator().manual_seed(3)
    )


def tokens(num_rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(NUM_TOKENS, (num_rows, length), generator=generator)


# Reading in pieces


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 1, 3], [2, 7]], ids=str)
@torch.inference_mode()
def test_reading_piece_by_piece_equals_reading_whole(kind: str, pieces: list[int]) -> None:
    decoder, grid, inputs = make(kind), grids(3), tokens(3, 9)
    whole = decoder(grid, inputs)
    state = ReadingState(decoder, grid)
    for piece, end in zip(
        torch.split(inputs, pieces, 1), itertools.accumulate(pieces), strict=True
    ):
        torch.testing.assert_close(state.feed(piece), whole[:, end - 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_rows_that_are_copied_moved_and_dropped_go_on_as_if_alone(kind: str) -> None:
    decoder, grid = make(kind), grids(4)
    state = ReadingState(decoder, grid)
    first, second, third = tokens(4, 3), tokens(12, 1), tokens(6, 1).flip(0)
    state.feed(first)
    state.widen(3)
    state.feed(second)
    rows = torch.tensor([2, 0, 0, 3, 4, 5, 8, 7, 6, 9, 9, 11])
    state.reorder(rows)
    state.keep(torch.tensor([0, 3]))
    found = state.feed(third)
    left = [0, 1, 2, 9, 10, 11]
    read = torch.cat([first.repeat_interleave(3, 0), second], 1)[rows][left]
    alone = decoder(grid.repeat_interleave(3, 0)[left], torch.cat([read, third], 1))[:, -1]
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_no_token_looks_ahead(kind: str) -> None:
    decoder, grid, inputs = make(kind), grids(2), tokens(2, 8)
    changed = inputs.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % NUM_TOKENS
    before, after = decoder(grid, inputs), decoder(grid, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_image_counts(kind: str) -> None:
    logits = make(kind)(grids(2), tokens(1, 4).expand(2, -1))
    assert (logits[0] - logits[1]).abs().amax(-1).min() > 1e-2


# References


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_search_finds_what_brute_force_finds(kind: str) -> None:
    """All captions of up to four of five tokens; 64 beams hold all beginnings that there are."""
    all_found = set()
    for seed in range(8):
        decoder, grid = toy(kind, seed), grids(3)
        start = torch.full((3, 1), START)
        wide, greedy = (
            GenerationConfig(num_beams=number, max_new_tokens=4, length_penalty=0.7)
            for number in (64, 1)
        )
        best = decode(ReadingState(decoder, grid), start, wide, END)
        likely = decode(ReadingState(decoder, grid), start, greedy, END)
        for image in range(3):
            one = grid[image : image + 1]
            (found,), (followed,) = best[image], likely[image]
            tokens, score = brute_force(decoder, one, 5, 4, 0.7)
            assert found.tokens == tokens
            assert found.score == pytest.approx(score, abs=1e-4)
            total = total_logprob(decoder, one, [tokens])[0]
            assert found.logprob == pytest.approx(total / len(tokens), abs=1e-4)
            assert followed.tokens == follow(decoder, one, 4)
            all_found.add((tuple(tokens), tokens == followed.tokens))
    # Captions of several lengths, and some that a greedy search misses.
    assert len({len(tokens) for tokens, _ in all_found}) > 1
    assert {is_greedy for _, is_greedy in all_found} == {True, False}
    assert len(all_found) > 4


def toy(kind: str, seed: int) -> Decoder:
    """A decoder of five tokens, random enough to write something."""
    decoder = make(kind, 5)
    generator = torch.Generator().manual_seed(seed)
    for name, value in decoder.named_parameters():
        if value.ndim > 1:
            scale = 0.3 if name == "words.weight" else 4 * value.shape[1] ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return decoder


def brute_force(
    decoder: Decoder, grid: Tensor, num_tokens: int, longest: int, exponent: float
) -> tuple[list[int], float]:
    others = [token for token in range(num_tokens) if token != END]
    captions = [
        [*body, END]
        for length in range(longest)
        for body in itertools.product(others, repeat=length)
    ] + [list(body) for body in itertools.product(others, repeat=longest)]
    scored = []
    for length in range(1, longest + 1):
        some = [caption for caption in captions if len(caption) == length]
        totals = total_logprob(decoder, grid, some)
        scored += [
            (total / length**exponent, caption) for total, caption in zip(totals, some, strict=True)
        ]
    score, best = max(scored)
    return best, score


def total_logprob(decoder: Decoder, grid: Tensor, captions: list[list[int]]) -> list[float]:
    """Sum the log-probabilities of captions of one length, from the full forward pass."""
    written = torch.tensor(captions)
    inputs = torch.cat([torch.full((len(written), 1), START), written[:, :-1]], 1)
    logits = decoder(grid.expand(len(written), -1, -1), inputs)
    chosen = logits.log_softmax(-1).gather(2, written[..., None])[..., 0]
    return [float(value) for value in chosen.sum(1)]


def follow(decoder: Decoder, grid: Tensor, longest: int) -> list[int]:
    """Take the likeliest token at every step, from the full forward pass."""
    written: list[int] = []
    while len(written) < longest and END not in written:
        logits = decoder(grid, torch.tensor([[START, *written]]))
        written.append(int(logits[0, -1].argmax()))
    return written


@torch.inference_mode()
def test_the_transformer_equals_that_of_torch() -> None:
    decoder = make("transformer")
    assert isinstance(decoder, TransformerDecoder)
    layer = nn.TransformerDecoderLayer(32, 4, 128, batch_first=True, norm_first=True)
    reference = nn.TransformerDecoder(layer, 2, nn.LayerNorm(32)).eval()
    for ours, theirs in zip(decoder.layers, reference.layers, strict=True):
        copy_layer(ours, theirs)
    reference.norm.load_state_dict(decoder.norm.state_dict())  # type: ignore[union-attr]
    grid, inputs = grids(3), tokens(3, 7)
    memory = decoder.see_norm(decoder.see(grid) + decoder.cells)
    words = decoder.words(inputs) * math.sqrt(32) + sinusoids(0, 7, 32, inputs.device)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    hidden = reference(words, memory, tgt_mask=mask, tgt_is_causal=True)
    torch.testing.assert_close(
        decoder(grid, inputs), hidden @ decoder.words.weight.T, rtol=1e-4, atol=1e-4
    )


def copy_layer(ours: Any, theirs: Any) -> None:
    grid = ours.grid_query.weight, ours.grid.weight
    theirs.self_attn.in_proj_weight.copy_(ours.own.weight)
    theirs.self_attn.in_proj_bias.copy_(ours.own.bias)
    theirs.self_attn.out_proj.load_state_dict(ours.own_out.state_dict())
    theirs.multihead_attn.in_proj_weight.copy_(torch.cat(grid))
    theirs.multihead_attn.in_proj_bias.copy_(torch.cat([ours.grid_query.bias, ours.grid.bias]))
    theirs.multihead_attn.out_proj.load_state_dict(ours.grid_out.state_dict())
    theirs.linear1.load_state_dict(ours.feed[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed[3].state_dict())
    for norm, own in zip(
        ("norm1", "norm2", "norm3"), (ours.own_norm, ours.grid_norm, ours.feed_norm), strict=True
    ):
        getattr(theirs, norm).load_state_dict(own.state_dict())


@torch.inference_mode()
def test_positions_are_those_of_the_paper() -> None:
    found = sinusoids(3, 4, 10, torch.device("cpu"))
    for row, place in enumerate(range(3, 7)):
        for channel in range(10):
            angle = place / 10_000 ** (channel // 2 * 2 / 10)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert found[row, channel].item() == pytest.approx(expected, abs=1e-5)


@torch.inference_mode()
def test_hybrid_follows_the_equations_of_the_paper() -> None:
    """In NumPy, for one image and layer: eq. 1-2 (LSTM), 4-6 and 13 (attention), 7 (output)."""
    decoder = make("hybrid", num_layers=1)
    assert isinstance(decoder, HybridDecoder)
    w = {name: value.double().numpy() for name, value in decoder.state_dict().items()}
    grid, inputs = grids(1), tokens(1, 5)

    def linear(name: str, values: Any) -> Any:
        return values @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def sigmoid(values: Any) -> Any:
        return 1 / (1 + np.exp(-values))

    seen = linear("see", grid[0].double().numpy())
    hidden, cell = np.split(np.tanh(linear("first_states", seen.mean(0))), 2)
    expected, looked = [], []
    for token in inputs[0].tolist():
        word = w["words.weight"][token]
        scores = linear(
            "attend", np.tanh(linear("attend_grid", seen) + linear("attend_state", hidden))
        )[:, 0]
        alpha = np.exp(scores) / np.exp(scores).sum()
        context = sigmoid(linear("gate", hidden)) * (alpha @ seen)
        gates = (
            np.concatenate([word, context]) @ w["cells.0.weight_ih"].T
            + hidden @ w["cells.0.weight_hh"].T
            + w["cells.0.bias_ih"]
            + w["cells.0.bias_hh"]
        )
        into, forget, update, out = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(update)
        hidden = sigmoid(out) * np.tanh(cell)
        said = word + linear("say_state", hidden) + linear("say_seen", context)
        expected.append(linear("say", said))
        looked.append(alpha)
    memory = decoder.look(grid)
    logits, weights, _ = decoder.read_with_weights(inputs, memory, decoder.start(memory))
    np.testing.assert_allclose(logits[0].numpy(), np.stack(expected), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(weights[0].numpy(), np.stack(looked), rtol=1e-3, atol=1e-4)


def test_widths_that_are_odd_work() -> None:
    decoder = make("transformer", width=33, num_heads=3)
    assert decoder(grids(2), tokens(2, 3)).shape == (2, 3, NUM_TOKENS)
