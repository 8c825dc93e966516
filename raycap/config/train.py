"""Settings of `raycap train`."""

from typing import Literal

from pydantic import Field, model_validator

from raycap.config.base import Section
from raycap.config.shared import GenerationConfig, ImageConfig, StorageConfig

ModelKind = Literal["blip", "cnn-lstm", "transformer", "hybrid"]


class ArchitectureConfig(Section):
    """Architecture of a model trained from scratch; `blip` keeps that of its weights."""

    encoder: Literal["resnet50", "efficientnet-lite0", "small-cnn"] = "resnet50"
    """`resnet50` (torchvision), `efficientnet-lite0` (extra raycap[lite]), or `small-cnn`."""
    pretrained: bool = True
    """Start the encoder from ImageNet weights, if there are any (none for `small-cnn`)."""
    train_encoder: bool = False
    """Train the encoder too. `small-cnn`, which has no pretrained weights, is always trained."""
    image_px: int = Field(default=224, ge=32, le=1024)
    """Side of the square that images are resized to."""
    width: int = Field(default=512, ge=8, le=8192)
    """Size of embeddings and hidden states."""
    num_layers: int = Field(default=2, ge=1, le=48)
    """Layers of the decoder."""
    num_heads: int = Field(default=8, ge=1, le=64)
    """Attention heads of a `transformer`; must divide `width`."""
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Share of activations dropped in training."""
    vocabulary_size: int = Field(default=10_000, ge=64, le=200_000)
    """Maximum number of tokens of the byte-pair encoding, trained on the training captions."""
    max_tokens: int = Field(default=64, ge=4, le=512)
    """Longest caption in tokens; longer ones are truncated in training."""


class BlipTuningConfig(Section):
    """The parts of a BLIP that are trained."""

    method: Literal["full", "frozen-vision", "lora"] = "full"
    """The whole model, all but the vision tower, or low-rank updates of the attention (extra
    raycap[lora]; Hu et al. 2021, arXiv:2106.09685)."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the updates."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: uses less memory and more time."""


class AugmentConfig(Section):
    """Random changes of training images, different in each epoch and reproducible by the seed.

    A probability of 0 switches a change off, a probability of 1 applies it always.
    """

    enabled: bool = True
    """Augment training images; false: train on unchanged images."""
    blur: float = Field(default=0.2, ge=0.0, le=1.0)
    """Probability of a Gaussian blur, sigma 0.1 to 2 pixels at 224 (scaled at other sizes)."""
    crop_scale: float = Field(default=0.8, gt=0.0, le=1.0)
    """Smallest share of the area that a random crop keeps; 1 switches cropping off."""
    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of mirroring. Off by default, because captions mention left and right."""
    colour: float = Field(default=0.2, ge=0.0, le=1.0)
    """Strength of random changes of brightness, contrast and saturation; that of hue is a tenth."""
    jpeg: float = Field(default=0.2, ge=0.0, le=1.0)
    """Probability of JPEG noise, quality 30 to 90."""
    erase: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of erasing a random rectangle of 2 to 20 % of the area."""
    captions: Literal["sample", "all"] = "sample"
    """`sample`: one random caption per image and epoch; `all`: every caption once per epoch."""


class OptimizerConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    weight_decay: float = Field(default=0.05, ge=0.0)
    """Weight decay; not applied to norms and biases."""
    warmup_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of all steps in which the learning rate grows."""
    final_lr_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Learning rate at the end, as a share of its peak."""
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """Largest norm of the gradient; None: not clipped."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the target's probability spread over all tokens. Reported losses exclude it."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Average the weights with this decay per step; validate and save the average. None: no
    averaging."""


class LoopConfig(Section):
    """The training loop."""

    lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate. None: 1e-5 for `blip`, 5e-4 for the others."""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Images per step and worker."""
    num_accumulated: int = Field(default=1, ge=1, le=4096)
    """Micro-batches per step, to save memory. If memory runs out, more are used."""
    num_epochs: int = Field(default=5, ge=1, le=100_000)
    """Passes over the training split. A higher number continues a finished run."""
    keep_checkpoint: bool = True
    """Keep the last checkpoint of a finished run (up to four times the size of the model), so that
    a higher `num_epochs` continues it."""
    subset: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the training split to train on, chosen by a hash of the ids: a smaller share is part
    of a larger one. Validation stays the same."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward pass; weights stay fp32. `auto`: bf16 on an accelerator that
    supports it, otherwise fp16 there, and fp32 on a CPU."""
    bucket_by_length: bool = True
    """Put captions of similar length into a batch, to reduce padding."""
    checkpoint_every_s: float = Field(default=600.0, gt=0.0)
    """Seconds between two checkpoints within an epoch."""
    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, the order, augmentation and dropout."""
    tensorboard: bool = False
    """Also write event files for TensorBoard (extra raycap[tensorboard])."""


class ValidationConfig(Section):
    """Measurements after each epoch."""

    num_images: int = Field(default=1000, ge=1)
    """Images of the validation split to measure on: the same ones each time."""
    metric: Literal["loss", "cider_d", "bleu_4", "rouge_l", "length_gap"] = "cider_d"
    """Metric of the best checkpoint and of early stopping."""
    patience: int | None = Field(default=3, ge=1)
    """Stop after this many epochs without a better value; None: never stop early."""


class TrainEngineConfig(Section):
    """How the work is distributed over the cluster."""

    num_workers: int = Field(default=1, ge=1, le=4096)
    """Copies of the model that train together, each on `train.batch_size` images per step."""
    gpus_per_worker: float | None = Field(default=None, ge=0.0)
    """GPUs per worker. None: 1 if the cluster has GPUs, otherwise 0."""
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    """CPUs that a worker reserves."""
    torch_threads: int | None = Field(default=None, ge=1)
    """CPU threads of a worker's model. None: the machine's cores divided by `num_workers`."""
    max_failures: int = Field(default=3, ge=0)
    """How often lost workers are replaced; training then continues from the last checkpoint."""
    shuffle_images: int = Field(default=4096, ge=1)
    """Images that are shuffled together; their files are read from random places in the dataset."""
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """Stop after this many seconds without progress."""


class TrainConfig(Section):
    """All settings of `raycap train`."""

    kind: ModelKind = "blip"
    """The model."""
    init: str | None = None
    """Model to start from: a Hub name, a folder, or `demo`. None: pretrained BLIP-base for
    `blip`, random weights for the others."""
    architecture: ArchitectureConfig = ArchitectureConfig()
    """Architecture of a model trained from scratch."""
    blip: BlipTuningConfig = BlipTuningConfig()
    """The parts of a BLIP that are trained."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of training images."""
    train: LoopConfig = LoopConfig()
    """The training loop."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    validation: ValidationConfig = ValidationConfig()
    """Measurements after each epoch."""
    generation: GenerationConfig = GenerationConfig()
    """How captions are generated in validation; saved with the model."""
    engine: TrainEngineConfig = TrainEngineConfig()
    """How the work is distributed."""
    image: ImageConfig = ImageConfig()
    """Limits on image files."""
    storage: StorageConfig = StorageConfig()
    """Access to stores."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        width, heads = self.architecture.width, self.architecture.num_heads
        if self.kind == "transformer" and width % heads:
            raise ValueError(
                f"architecture.num_heads={heads} must divide architecture.width={width}"
            )
        if self.train.num_accumulated > self.train.batch_size:
            raise ValueError("train.num_accumulated must not exceed train.batch_size")
        return self
