"""Settings of `raycap train`."""

from typing import Literal

from pydantic import Field, model_validator

from raycap.config.base import Section
from raycap.config.shared import GenerationConfig, ImageConfig, StorageConfig

Kind = Literal["blip", "cnn-lstm", "transformer", "hybrid"]


class ArchitectureConfig(Section):
    """What a model trained from scratch is made of; `blip` keeps the one of its weights."""

    encoder: Literal["resnet50", "efficientnet-lite0", "small-cnn"] = "resnet50"
    """`resnet50` (torchvision), `efficientnet-lite0` (extra raycap[lite]), or `small-cnn`."""
    pretrained: bool = True
    """Start the encoder from ImageNet weights, where it has some (`small-cnn` has none)."""
    train_encoder: bool = False
    """Train the encoder too. `small-cnn`, which starts from nothing, always is."""
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
    """Tokens at the most: byte-pair encoding, trained on the training captions."""
    max_tokens: int = Field(default=64, ge=4, le=512)
    """Longest caption in tokens; what is longer is cut in training."""


class BlipTuningConfig(Section):
    """What of a BLIP is trained."""

    method: Literal["full", "frozen-vision", "lora"] = "full"
    """All of it, all but the vision tower, or low-rank updates of the attention (extra
    raycap[lora]; Hu et al. 2021, arXiv:2106.09685)."""
    lora_rank: int = Field(default=16, ge=1, le=512)
    """Rank of the updates."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class AugmentConfig(Section):
    """Random changes of training images, drawn anew each epoch, the same for the same seed.

    0 or 1 as a probability switches a change off or makes it certain.
    """

    enabled: bool = True
    """All of it; false trains on the images as they are."""
    blur: float = Field(default=0.2, ge=0.0, le=1.0)
    """Probability of a Gaussian blur, sigma 0.1 to 2 pixels at 224 (in proportion at others)."""
    crop_scale: float = Field(default=0.8, gt=0.0, le=1.0)
    """Least share of the area that a random crop keeps; 1 crops nothing."""
    flip: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of mirroring. Off, because captions speak of left and right."""
    colour: float = Field(default=0.2, ge=0.0, le=1.0)
    """Strength of random brightness, contrast and saturation; a tenth of it for hue."""
    jpeg: float = Field(default=0.2, ge=0.0, le=1.0)
    """Probability of JPEG noise, quality 30 to 90."""
    erase: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of erasing a random rectangle of 2 to 20 % of the area."""
    captions: Literal["sample", "all"] = "sample"
    """One of an image's captions at random each epoch, or each of them once an epoch."""


class OptimizerConfig(Section):
    """AdamW with linear warm-up and cosine decay."""

    weight_decay: float = Field(default=0.05, ge=0.0)
    """Not applied to norms and biases."""
    warmup_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of all steps over which the learning rate grows."""
    final_lr_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the peak learning rate that is left at the end."""
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """Longest gradient; None: as it comes."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the target's probability spread over all tokens. The losses that are shown are
    without it."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Average the weights with this decay a step, and validate and save the average."""


class LoopConfig(Section):
    """The training itself."""

    lr: float | None = Field(default=None, gt=0.0)
    """Peak learning rate. None: 1e-5 for `blip`, 5e-4 for the others."""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Images a step and worker."""
    num_accumulated: int = Field(default=1, ge=1, le=4096)
    """Micro-batches that a step is split into, to fit memory. More are used if it runs out."""
    num_epochs: int = Field(default=5, ge=1, le=100_000)
    """Passes over the training split."""
    subset: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the training split to train on, by a hash of the ids: a smaller one lies within a
    larger one. Validation stays the same."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass; weights stay fp32. `auto`: bf16 on an accelerator that has it,
    otherwise fp16 there, and fp32 on a CPU."""
    bucket_by_length: bool = True
    """Put captions of like length into a batch, so that little of it is padding."""
    checkpoint_every_s: float = Field(default=600.0, gt=0.0)
    """Write a checkpoint also within an epoch after so many seconds."""
    seed: int = Field(default=0, ge=0)
    """Fixes initial weights, order, augmentation and dropout."""
    tensorboard: bool = False
    """Write event files for TensorBoard too (extra raycap[tensorboard])."""


class ValidationConfig(Section):
    """What is measured after each epoch."""

    num_images: int = Field(default=1000, ge=1)
    """Images of the validation split to measure on: the same ones each time."""
    metric: Literal["loss", "cider_d", "bleu_4", "rouge_l", "length_gap"] = "cider_d"
    """What the best checkpoint is chosen by, and early stopping looks at."""
    patience: int | None = Field(default=3, ge=1)
    """Stop after so many epochs without a better value; None: never."""


class TrainEngineConfig(Section):
    """How the work is spread over the cluster."""

    num_workers: int = Field(default=1, ge=1, le=4096)
    """Copies of the model that train together, each on `train.batch_size` images a step."""
    gpus_per_worker: float | None = Field(default=None, ge=0.0)
    """GPUs a worker. None: 1 where the cluster has GPUs, otherwise 0."""
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    """CPUs a worker reserves."""
    torch_threads: int | None = Field(default=None, ge=1)
    """CPU threads of a worker's model. None: the machine's cores shared by `num_workers`."""
    max_failures: int = Field(default=3, ge=0)
    """Times that lost workers are replaced, from the last checkpoint on."""
    shuffle_images: int = Field(default=4096, ge=1)
    """Images that are shuffled together; their files are read from random places of the set."""
    stall_timeout_s: float = Field(default=600.0, gt=0.0)
    """Stop when nothing moved for so long."""


class TrainConfig(Section):
    """All settings of `raycap train`."""

    kind: Kind = "blip"
    """Which model."""
    init: str | None = None
    """Model to start from: a Hub name, a folder, or `demo`. None: pretrained BLIP-base for
    `blip`, random weights for the others."""
    architecture: ArchitectureConfig = ArchitectureConfig()
    """What a model trained from scratch is made of."""
    blip: BlipTuningConfig = BlipTuningConfig()
    """What of a BLIP is trained."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of training images."""
    train: LoopConfig = LoopConfig()
    """The training itself."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    validation: ValidationConfig = ValidationConfig()
    """What is measured after each epoch."""
    generation: GenerationConfig = GenerationConfig()
    """How captions are searched for in validation; saved with the model."""
    engine: TrainEngineConfig = TrainEngineConfig()
    """How the work is spread."""
    image: ImageConfig = ImageConfig()
    """What is accepted as an image."""
    storage: StorageConfig = StorageConfig()
    """How stores are reached."""

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
