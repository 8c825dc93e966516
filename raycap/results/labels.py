"""Names of scores in outputs, and their labels in tables, charts and pages."""

from raycap.schema import BLEU, CIDER_D, CLIP_SCORE, METEOR, REF_CLIP_SCORE, ROUGE_L, SPICE

LOSS = "loss"
"""Validation loss, as a metric that epochs and trials are compared by."""
LENGTH = "length"
"""Mean caption length, as a metric that systems are compared by."""
LENGTH_GAP = "length_gap"
"""Mean length of captions minus that of the references, in tokens; negative means too short."""
MEAN_TOKENS = "mean_tokens"
REFERENCE_MEAN_TOKENS = "reference_mean_tokens"
MEAN_WORDS = "mean_words"
DIFFERENT_CAPTIONS = "different_captions"

METRIC_LABELS = {
    **{name: f"BLEU-{order}" for order, name in enumerate(BLEU, start=1)},
    ROUGE_L: "ROUGE-L",
    CIDER_D: "CIDEr-D",
    METEOR: "METEOR",
    SPICE: "SPICE",
    CLIP_SCORE: "CLIPScore",
    REF_CLIP_SCORE: "RefCLIPScore",
    LENGTH: "length in tokens",
    LENGTH_GAP: "length gap",
    LOSS: "validation loss",
}


def metric_label(name: str) -> str:
    """Return the label of a metric; the name itself for an unknown one."""
    return METRIC_LABELS.get(name, name)
