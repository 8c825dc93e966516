"""Cross entropy of the next token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from raycap.models.trainable import IGNORED


def token_losses(
    logits: Float[Tensor, "s t v"], targets: Int[Tensor, "s t"], smoothing: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum the cross entropy over all tokens that carry a loss.

    Args:
        logits: for the token that follows each position.
        targets: that token, or IGNORED.
        smoothing: share of the target's probability that is spread over all tokens (Szegedy et
            al. 2015, arXiv:1512.00567, section 7), as torch's `cross_entropy` does it.

    Returns:
        The sum with label smoothing, to be trained on, and without, to be shown; in fp32.
    """
    logs = functional.log_softmax(logits.float().flatten(0, 1), dim=-1)
    wanted = targets.flatten()
    plain = functional.nll_loss(logs, wanted, ignore_index=IGNORED, reduction="sum")
    if not smoothing:
        return plain, plain
    spread = -torch.where(wanted != IGNORED, logs.mean(dim=-1), 0.0).sum()
    return (1 - smoothing) * plain + smoothing * spread, plain
