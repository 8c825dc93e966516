"""Settings of models, images and stores that several commands share."""

from typing import Any, Literal

from pydantic import Field, model_validator

from raycap.config.base import Section

DEFAULT_MODEL = "Salesforce/blip-image-captioning-base"

_VLLM_ROOM = {
    "disable_log_stats",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel_size",
}
"""Arguments of vLLM that change its use of resources, but not its captions."""


class ModelConfig(Section):
    """The model that captions, and its arithmetic."""

    name: str = DEFAULT_MODEL
    """A Hub name, `name@revision`, a local folder, `demo` (ships with raycap) or `stub`; a class of
    your own, `package.module:Class`; or with `backend=endpoint`, the name of the model at the
    server."""
    trust: bool = False
    """Import and run the class of your own that `name` or `cascade.model` gives. Classes that
    installed packages register as entry points need no such permission."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments for the constructor of a class of your own. They are saved with the run, so do not
    put secrets here."""
    adapter: str | None = None
    """A LoRA adapter (peft) to merge into the model: a local folder or a Hub name. Needs the extra
    raycap[lora]. None: no adapter, unless `name` is itself an adapter."""
    precision: Literal["auto", "fast", "fp32", "bf16", "fp16", "int8"] = "auto"
    """`auto`: bf16 on an accelerator that supports it, otherwise fp16 there, and fp32 on a CPU.
    `int8`: 8-bit linear layers, for BLIP on a CPU; faster, and some captions differ. `fast`: as
    `auto` on an accelerator, and as `fast_on_cpu` says on a CPU."""
    fast_on_cpu: Literal["int8", "bf16", "fp32"] | None = None
    """Precision of `fast` on a CPU. None: that of the CPU that starts the run, saved with the run:
    int8 if it multiplies 8-bit integers (AVX-512 VNNI, AVX-VNNI or AMX) and the model is a BLIP,
    otherwise bf16 if it multiplies bf16 (AVX-512 BF16 or AMX), otherwise fp32. Set it to continue a
    run from a machine with another CPU."""
    compile: bool = False
    """Experimental: the speed on a GPU has not been measured. Compile the model with torch.compile
    for fixed shapes, with CUDA graphs on CUDA; takes about a minute at the start. BLIP only.
    Batches are rounded up to a power of two."""
    backend: Literal["torch", "vllm", "endpoint"] = "torch"
    """Software that runs the model. `torch`: raycap's own captioners. `vllm`: vLLM, for
    vision-language models on GPUs, only in `raycap caption`; needs the extra raycap[vllm].
    `endpoint`: a server with OpenAI's interface, of the section `endpoint`; only in `raycap
    caption` and for `raycap.load_captioner`."""
    vllm_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM's engine, such as `{max_model_len: 4096}`."""
    stub_latency_s: float = Field(default=0.0, ge=0.0, le=60.0)
    """Seconds per batch of the `stub` model: for dry runs and engine benchmarks."""
    stub_fault: Literal["raise", "nan", "die", "hang"] | None = None
    """What the `stub` model does with an image whose middle is pure magenta (red 255, green 0, blue
    255): raise an error, return the score NaN, end its process, or hang. For fault drills."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.compile and self.precision == "int8":
            raise ValueError("compile=true cannot go with precision=int8: choose one of them")
        if self.fast_on_cpu is not None and self.precision != "fast":
            raise ValueError("fast_on_cpu needs precision=fast: set both")
        if self.vllm_args and self.backend != "vllm":
            raise ValueError("vllm_args needs backend=vllm: set both")
        return self

    def arithmetic(self) -> dict[str, Any]:
        """Return the settings that decide a model's captions, for the fingerprint of a run.

        Compiled arithmetic and vLLM round differently, so that near ties can fall the other way.
        They are included only if they are on, so that runs older than these settings can continue.
        """
        found: dict[str, Any] = {"precision": self.precision}
        if self.fast_on_cpu is not None:
            found["fast_on_cpu"] = self.fast_on_cpu
        if self.compile:
            found["compile"] = True
        if self.backend != "torch":
            found["backend"] = self.backend
            found |= {key: self.vllm_args[key] for key in self.vllm_args.keys() - _VLLM_ROOM}
        if self.args:
            found["args"] = self.args
        return found


class SamplingConfig(Section):
    """Random sampling of tokens, instead of a search for the most likely caption."""

    enabled: bool = False
    """Sample. Requires `generation.num_beams` 1."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Above 1 flattens the distribution, below 1 sharpens it."""
    top_k: int | None = Field(default=None, ge=1)
    """Draw from the k most likely tokens only. None: from all tokens."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Draw from the most likely tokens that together have this probability."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draws, which depend only on it and on the image's pixels, not on batch or
    actor."""


class GenerationConfig(Section):
    """How a caption is generated."""

    num_beams: int = Field(default=3, ge=1, le=64)
    """Beams of the search; 1 is greedy search. BLIP's authors use 3."""
    max_new_tokens: int = Field(default=20, ge=1, le=500)
    """Longest caption in tokens, without the prompt."""
    min_new_tokens: int = Field(default=0, ge=0, le=500)
    """Shortest caption in tokens, without the prompt."""
    length_penalty: float = 1.0
    """Exponent of the length in the beam score: above 0 favours long captions. Beam search only."""
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    """Above 1 makes tokens that the caption already contains less likely."""
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    """No sequence of this many tokens may occur twice; 0 allows all."""
    prompt: str = ""
    """Text that every caption continues, such as "a picture of". For a vision-language model, the
    question that the caption answers; empty: the default prompt for that kind of model."""
    num_captions: int = Field(default=1, ge=1, le=64)
    """Captions per image: the best in `caption`, the others in `alternatives`."""
    sampling: SamplingConfig = SamplingConfig()
    """Random sampling instead of search."""

    @model_validator(mode="after")
    def _consistent(self) -> "GenerationConfig":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens must not exceed max_new_tokens")
        if self.sampling.enabled and self.num_beams > 1:
            raise ValueError("sampling needs num_beams=1")
        if not self.sampling.enabled and self.num_captions > self.num_beams:
            raise ValueError(
                "num_captions must not exceed num_beams (or set sampling.enabled=true)"
            )
        return self


class ImageConfig(Section):
    """Limits on image files."""

    max_bytes: int = Field(default=100_000_000, ge=1)
    """Larger files become `too_large` rows, and are not read."""
    max_pixels: int = Field(default=178_956_970, ge=1)
    """Images with more pixels become `too_large` rows, and are not decoded (default: Pillow's
    limit)."""


class StorageConfig(Section):
    """Access to folders, buckets and web addresses."""

    timeout_s: float = Field(default=30.0, gt=0.0)
    """Longest wait in seconds for a connection, or for the next bytes from it."""
    image_timeout_s: float = Field(default=300.0, gt=0.0)
    """Longest time in seconds for reading one image from a bucket or web address, including
    retries."""
    num_retries: int = Field(default=5, ge=0, le=50)
    """Retries of a throttled, failed or interrupted request, after growing random waits."""
    anonymous: bool = False
    """Do not sign requests, for public buckets."""
    list_threads: int = Field(default=16, ge=1, le=256)
    """Number of prefixes to list, and of small files to read or write, in parallel."""
