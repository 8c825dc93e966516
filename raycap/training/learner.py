"""One worker's model in training: forward, backward and update.

With the next-token cross entropy, the AdamW optimizer, its learning rate schedule, and the average
of the weights.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from raycap.config import OptimizerConfig, TrainConfig
from raycap.models.device import pick_dtype
from raycap.models.trainable import IGNORED, TokenBatch, Trainable
from raycap.training.data.feed import Batch
from raycap.training.data.plan import draw_seed
from raycap.training.workers import Workers


def token_losses(
    logits: Float[Tensor, "s t v"], targets: Int[Tensor, "s t"], smoothing: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum the cross entropy over all tokens with a loss.

    Args:
        logits: predictions of the token that follows each position.
        targets: that token, or IGNORED.
        smoothing: share of the target's probability that is spread over all tokens (Szegedy et
            al. 2015, arXiv:1512.00567, section 7), as in torch's `cross_entropy`.

    Returns:
        The sum with label smoothing, to train on, and without, to report; in fp32.
    """
    logs = functional.log_softmax(logits.float().flatten(0, 1), dim=-1)
    wanted = targets.flatten()
    plain = functional.nll_loss(logs, wanted, ignore_index=IGNORED, reduction="sum")
    if not smoothing:
        return plain, plain
    spread = -torch.where(wanted != IGNORED, logs.mean(dim=-1), 0.0).sum()
    return (1 - smoothing) * plain + smoothing * spread, plain


def learning_rate(step: int, num_steps: int, peak: float, config: OptimizerConfig) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then half a cosine.

    Source: Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts.
    """
    num_warmup = round(config.warmup_share * num_steps)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - 1 - num_warmup)
    floor = config.final_lr_share
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def make_optimizer(parameters: dict[str, nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Vectors do not decay: they are biases and gains of norms.
    """
    decayed = [value for value in parameters.values() if value.ndim > 1]
    others = [value for value in parameters.values() if value.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


class Average:
    """An exponential moving average of the weights (Polyak & Juditsky 1992)."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights."""
        for name, value in self._parameters.items():
            self.values[name].lerp_(value, 1 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the weights by their average within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            held: Tensor = self.values[name]
            self.values[name], parameter.data = parameter.data, held


_SMALLEST_SCALE = 2.0**-4
"""Below this fp16 loss scale, no gradient will be finite any more."""


class NonFinite(Exception):
    """A loss or gradient is NaN or infinite."""


class Learner:
    """A network on one device, with its optimizer and optionally its average."""

    def __init__(self, trainable: Trainable, config: TrainConfig, workers: Workers) -> None:
        self.trainable = trainable
        self.network = trainable.network.to(workers.device)
        self.trained = {
            name: value for name, value in self.network.named_parameters() if value.requires_grad
        }
        self._config = config
        self._workers = workers
        self._dtype = pick_dtype(config.train.precision, workers.device)
        self.optimizer = make_optimizer(self.trained, config.optimizer.weight_decay)
        decay = config.optimizer.ema_decay
        self.average = None if decay is None else Average(self.trained, decay)
        self.scaler = torch.amp.GradScaler(
            workers.device.type, enabled=self._dtype == torch.float16
        )
        self._parallel: nn.Module = self.network
        self._buffers: dict[str, Tensor] = {}

    def connect(self) -> None:
        """Average the workers' gradients from now on, except for parameters without a gradient.

        Call it after a trial step, with its gradients in place: a network may have parameters
        that its loss does not depend on.
        """
        unused = [name for name, value in self.trained.items() if value.grad is None]
        for name in unused:
            self.trained[name].requires_grad_(False)
        self.optimizer.zero_grad()
        if self._workers.size > 1:
            devices = None if self._workers.device.type == "cpu" else [self._workers.device]
            self._parallel = DistributedDataParallel(self.network, device_ids=devices)

    def learn(self, batch: Batch, num_tokens: int, lr: float, max_captions: int) -> float:
        """Take one step: this worker's share of the batch, and the gradients of all workers.

        Args:
            batch: this worker's share.
            num_tokens: tokens with a loss in the step, over all workers.
            lr: learning rate.
            max_captions: maximum captions per micro-batch.

        Returns:
            The sum of this worker's token losses, without label smoothing.

        Raises:
            NonFinite: on all workers at once; the weights are unchanged.
        """
        self.network.train()
        self._hold_buffers()
        # Gradients are averaged over the workers: this weight makes that the mean over all tokens.
        weight = self._workers.size / max(1, num_tokens)
        loss_sum = torch.zeros((), device=self._workers.device)
        starts = range(0, len(batch.owners), max_captions)
        for start in starts:
            with nullcontext() if start == starts[-1] else self._apart():
                torch.manual_seed(self._dropout_seed(batch, start))
                trained, shown = self._losses(
                    self._parallel, batch, slice(start, start + max_captions)
                )
                torch.autograd.backward(self.scaler.scale(trained * weight))
            loss_sum += shown.detach()
        self._update(lr)
        return float(loss_sum)

    def _update(self, lr: float) -> None:
        self.scaler.unscale_(self.optimizer)
        gradients = [value.grad for value in self.trained.values() if value.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        clip_norm = self._config.optimizer.clip_norm
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.trained.values(), clip_norm, norm)
        if not self.scaler.is_enabled() and not math.isfinite(float(norm)):
            self.optimizer.zero_grad()
            raise NonFinite
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.is_enabled() and self.scaler.get_scale() < _SMALLEST_SCALE:
            raise NonFinite
        if self.average is not None:
            self.average.update()

    def measure(self, batch: Batch, max_captions: int) -> tuple[float, int]:
        """Return the sum of a batch's token losses, and its tokens, without training on it."""
        self.network.eval()
        loss_sum = 0.0
        with torch.inference_mode():
            for start in range(0, len(batch.owners), max_captions):
                share = slice(start, start + max_captions)
                loss_sum += float(self._losses(self.network, batch, share)[1])
        return loss_sum, count_tokens(batch.tokens)

    def try_out(self, batch: Batch) -> None:
        """Run forward and backward over a whole batch, and keep only the gradients."""
        self.network.train()
        self._hold_buffers()
        try:
            trained, _ = self._losses(self.network, batch, slice(0, len(batch.owners)))
            torch.autograd.backward(self.scaler.scale(trained))
        finally:
            self.restore_buffers()

    def _hold_buffers(self) -> None:
        self._buffers = {name: value.clone() for name, value in self.network.named_buffers()}

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Restore buffers, such as batch norm statistics, to their values before the last step."""
        for name, value in self.network.named_buffers():
            value.copy_(self._buffers[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averaged weights within the block, if there are any."""
        with self.average.in_place() if self.average else nullcontext():
            yield

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Compute in the configured precision within the block."""
        device = self._workers.device.type
        return torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32)

    def _losses(
        self, network: nn.Module, batch: Batch, share: slice
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        device = self._workers.device
        tokens = batch.tokens
        # Without the padding that no caption of the share needs.
        length = max(1, int(tokens.mask[share].sum(dim=1).max()))
        pixels = batch.pixels[batch.owners[share]].to(device, non_blocking=True)
        inputs, mask, targets = (
            values[share, :length].to(device, non_blocking=True)
            for values in (tokens.inputs, tokens.mask, tokens.targets)
        )
        smoothing = self._config.optimizer.label_smoothing if self.network.training else 0.0
        with self.arithmetic():
            logits = network(pixels, inputs, mask)
        return token_losses(logits, targets, smoothing)

    def _apart(self) -> AbstractContextManager[Any]:
        """Keep a micro-batch's gradients on this worker; they are averaged with the last one's."""
        if isinstance(self._parallel, DistributedDataParallel):
            return self._parallel.no_sync()
        return nullcontext()

    def _dropout_seed(self, batch: Batch, start: int) -> int:
        # From the position in the run only: dropout is the same after a restart, and with another
        # number of workers.
        place = (batch.epoch, batch.number, int(batch.offsets[start]))
        return draw_seed(self._config.train.seed, "dropout", *place)


def count_tokens(tokens: TokenBatch) -> int:
    """Count the tokens with a loss."""
    return int((tokens.targets != IGNORED).sum())
