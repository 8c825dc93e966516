"""Losses, optimizer, schedule, averages and the overfitting watch, without an image model."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from raycap.config import OptimizerConfig
from raycap.models.trainable import IGNORED
from raycap.results.training import (
    EpochRecord,
    Losses,
    best_epoch,
    chosen_by,
    describe_overfitting,
    judge_fit,
    overfits_since,
)
from raycap.training.epochs import gap_trend, is_exhausted
from raycap.training.learner import Average, learning_rate, make_optimizer, token_losses
from tests.support.training_samples import training_history


def some_logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator) * 3
    targets = torch.randint(0, 11, (3, 5), generator=generator)
    targets[0, 3:] = IGNORED
    targets[2] = IGNORED
    return logits, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_losses_are_torchs_cross_entropy_with_and_without_smoothing(smoothing: float) -> None:
    logits, targets = some_logits()
    trained, shown = token_losses(logits, targets, smoothing)
    flat = (logits.flatten(0, 1), targets.flatten())
    expected = functional.cross_entropy(*flat, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(trained, expected)
    torch.testing.assert_close(shown, functional.cross_entropy(*flat, reduction="sum"))


def test_the_loss_is_computed_in_fp32_for_any_logits() -> None:
    logits, targets = some_logits()
    trained, _ = token_losses(logits.bfloat16(), targets, 0.1)
    assert trained.dtype == torch.float32
    exact, _ = token_losses(logits.bfloat16().float(), targets, 0.1)
    torch.testing.assert_close(trained, exact)


def test_a_batch_without_any_target_has_a_loss_of_zero_and_a_gradient() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    trained, shown = token_losses(logits, torch.full((2, 3), IGNORED), 0.1)
    torch.autograd.backward(trained)
    assert trained.item() == shown.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_learning_rate_warms_up_linearly_and_falls_by_half_a_cosine() -> None:
    config = OptimizerConfig(warmup_share=0.1, final_lr_share=0.01)
    rates = [learning_rate(step, 101, 2.0, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[100] == pytest.approx(0.02)
    assert rates[55] == pytest.approx((2.0 + 0.02) / 2)
    assert all(a > b for a, b in pairwise(rates[10:]))
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), T_max=90, eta_min=0.02
    )
    expected = []
    for _ in range(91):
        expected.append(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()
    assert rates[10:] == pytest.approx(expected)


def test_a_schedule_of_one_step_has_the_peak() -> None:
    assert learning_rate(0, 1, 3.0, OptimizerConfig(warmup_share=0.0)) == 3.0
    assert learning_rate(0, 1, 3.0, OptimizerConfig(warmup_share=0.9)) == 3.0


def test_norms_and_biases_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = make_optimizer(dict(network.named_parameters()), 0.5)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for value in network.parameters():
        value.grad = torch.zeros_like(value)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    moved = {n for n, v in network.named_parameters() if not torch.equal(v, before[n])}
    assert moved == {"0.weight", "2.weight"}
    torch.testing.assert_close(network[2].weight, before["2.weight"] * (1 - 0.1 * 0.5))


def test_a_model_with_only_vectors_has_an_optimizer_too() -> None:
    assert len(make_optimizer({"bias": nn.Parameter(torch.ones(3))}, 0.1).param_groups) == 1


def test_the_average_follows_the_weights_and_replaces_them_within_a_block() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    average = Average({"w": weight}, decay=0.9)
    expected = 1.0
    for value in (2.0, 3.0, 5.0):
        weight.data.fill_(value)
        average.update()
        expected = 0.9 * expected + 0.1 * value
    with average.in_place():
        assert weight.item() == pytest.approx(expected)
    assert weight.item() == 5.0
    with pytest.raises(ZeroDivisionError), average.in_place():
        raise ZeroDivisionError
    assert weight.item() == 5.0


def losses(*pairs: tuple[float, float]) -> list[Losses]:
    return [Losses(fitted=fitted, validation=validation) for fitted, validation in pairs]


OVERFITTING = losses((3.0, 3.2), (2.5, 2.9), (2.0, 3.0), (1.6, 3.2), (1.3, 3.5))


def test_the_watch_names_the_epoch_from_which_validation_rises_while_training_falls() -> None:
    found = [overfits_since(OVERFITTING[:count]) for count in range(6)]
    assert found == [None, None, None, None, 3, 3]
    text = describe_overfitting(OVERFITTING, 3)
    assert text == (
        "overfitting since epoch 3: validation loss rose from 2.900 to 3.500 while training loss "
        "fell from 2.500 to 1.300; epoch 2 generalises best"
    )


def test_the_watch_is_silent_when_both_losses_fall_or_both_rise() -> None:
    assert overfits_since(losses((3.0, 3.2), (2.5, 2.9), (2.0, 2.8), (1.5, 2.7))) is None
    assert overfits_since(losses((3.0, 3.2), (2.5, 2.9), (2.7, 3.0), (3.0, 3.4))) is None


def test_the_watch_ignores_a_single_bad_epoch() -> None:
    assert overfits_since(losses((3.0, 3.2), (2.5, 2.9), (2.0, 3.0), (1.8, 2.8))) is None


def test_the_watch_ignores_changes_within_noise() -> None:
    flat = losses((4.0, 4.5801), (3.0, 4.5800), (2.9, 4.5803), (2.8, 4.5804), (2.7, 4.60))
    assert [overfits_since(flat[:count]) for count in range(6)] == [None] * 6
    assert overfits_since(losses((2.0, 2.5), (1.999, 2.6), (1.998, 2.7))) is None


@pytest.mark.parametrize(
    ("epochs", "verdict"),
    [
        (OVERFITTING, "overfitting since epoch 3"),
        (OVERFITTING[:1], "no verdict after 1 epoch;"),
        (OVERFITTING[:2], "no verdict after 2 epochs;"),
        (losses((3.0, 3.2), (2.5, 2.9), (2.0, 2.6)), "no overfitting: validation loss was still"),
        (losses((3.0, 3.2), (2.0, 2.5), (1.2, 2.5), (0.8, 2.5)), "no gain since epoch 2"),
        (losses((3.0, 3.2), (3.0, 3.2), (3.0, 3.2)), "no overfitting: both losses are steady"),
    ],
)
def test_every_run_has_a_verdict(epochs: list[Losses], verdict: str) -> None:
    text = judge_fit(epochs, overfits_since(epochs))
    assert text.startswith(verdict)
    if not verdict.startswith("overfitting"):
        assert text.endswith(f"generalisation gap {epochs[-1].gap:+.3f}")


def test_a_gap_of_nothing_has_no_negative_sign() -> None:
    assert judge_fit(losses((2.0, 2.0 - 1e-9)), None).endswith("+0.000")


def test_the_gaps_trend_is_its_slope_over_the_last_epochs() -> None:
    assert gap_trend(OVERFITTING[:1]) is None
    assert gap_trend(OVERFITTING[:2]) == pytest.approx(0.2)
    assert gap_trend(OVERFITTING) == pytest.approx((2.2 - 1.0) / 2)


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("cider_d", [0.1, 0.5, 0.5, 0.2], 2),
        ("loss", [3.0, 2.0, 1.0, 1.5], 3),
        ("length_gap", [-9.0, 2.0, -1.0, 3.0], 3),
        ("cider_d", [math.nan, 0.1], 2),
    ],
)
def test_the_best_epoch_follows_the_direction_of_the_metric(
    metric: str, values: list[float], best: int
) -> None:
    assert best_epoch(values, [1.0] * len(values), metric) == best  # type: ignore[arg-type]


def test_a_tie_goes_to_the_loss_and_is_said() -> None:
    ciders = [2e-4, 0.0, 4e-4, -0.0]  # all 0.000 in the table of epochs
    falling = [4.0, 3.0, 2.0, 2.5]
    assert best_epoch(ciders, falling, "cider_d") == 3
    assert not is_exhausted(ciders[:3], falling[:3], "cider_d", 1)

    def history(values: list[float]) -> list[EpochRecord]:
        samples = zip(training_history(4), values, falling, strict=True)
        return [
            replace(it, scores={**it.scores, "cider_d": value}, validation_loss=loss)
            for it, value, loss in samples
        ]

    tied, apart = history(ciders), history([0.1, 0.2, 0.3, 0.2])
    text = "validation loss, of 4 epochs with cider_d 0.000"
    assert chosen_by(tied, tied[2], "cider_d") == text
    assert chosen_by(apart, apart[2], "cider_d") == "cider_d"
    assert chosen_by(tied, tied[2], "loss") == "loss"
    assert chosen_by(tied, tied[0], "cider_d") == "cider_d", "as an earlier version chose it"


def test_patience_counts_the_epochs_without_a_better_value() -> None:
    values, even = [0.1, 0.4, 0.3, 0.4], [1.0] * 4
    assert not is_exhausted(values, even, "cider_d", 3)
    assert is_exhausted(values, even, "cider_d", 2)
    assert not is_exhausted(values, even, "cider_d", None)
    assert not is_exhausted([], [], "cider_d", 1)
