"""What a CNN-LSTM makes of an image before the LSTM reads it."""

import torch

from raycap.models.scratch.cnn_lstm import ChannelScale


def test_channels_are_scaled_by_all_images_seen() -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 5) * torch.tensor([0.1, 1, 5, 2, 1]) + torch.tensor([3, 0, 1, -2, 0])
    scale = ChannelScale(5).train()
    for _ in range(20):
        for batch in values.view(8, 8, 5):
            scale(batch)

    scaled = scale.eval()(values)

    torch.testing.assert_close(scaled.mean(0), torch.zeros(5), atol=0.15, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(5), atol=0.15, rtol=0)


def test_an_image_is_scaled_alike_in_any_batch_and_evaluation_counts_nothing() -> None:
    torch.manual_seed(0)
    scale = ChannelScale(3).train()
    scale(torch.randn(16, 3))
    values = torch.randn(4, 3)
    scale.eval()

    together = scale(values)
    alone = torch.cat([scale(value[None]) for value in values])

    torch.testing.assert_close(together, alone)
    assert scale.num_batches.item() == 1


def test_a_batch_of_one_is_finite_from_the_first_step() -> None:
    scale = ChannelScale(3).train()

    assert scale(torch.tensor([[1.0, 0.0, -5.0]])).isfinite().all()
