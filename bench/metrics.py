"""The time of BLEU, ROUGE-L and CIDEr-D, in raycap and in pycocoevalcap.

Both score the same tokens in one process, one after the other, in several rounds. The table shows
the ratio of each round and the median. The captions are those of COCO 2014's validation set, which
the pycocoevalcap wheel contains. The first caption of each image is the hypothesis; the others are
its references, filled up with captions of the next image. Scores must agree to 1e-9. Then raycap's
tokenizer and Stanford's program split all captions of that set.

    python -m bench.metrics [--images 5000] [--references 5] [--rounds 5]
"""

import argparse
import json
import statistics
import time
import zipfile
from collections.abc import Callable

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from raycap.evaluation.java import PTB, PtbTokenizer, require
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.scores import mean, score_images
from raycap.metrics.tokenizer import TOKENIZER, tokenize

BAR = 2.0
Tokens = list[str]
Scores = list[float]


def read_captions() -> list[list[str]]:
    """Read the captions of each image."""
    with zipfile.ZipFile(require("bench", "spice/spice-1.0.jar")) as archive:
        found = json.loads(archive.read("coco/annotations/captions_val2014.json"))["annotations"]
    images: dict[int, list[str]] = {}
    for one in sorted(found, key=lambda one: (one["image_id"], one["id"])):
        images.setdefault(one["image_id"], []).append(one["caption"])
    return list(images.values())


def build_corpus(
    images: list[list[Tokens]], num_images: int, num_references: int
) -> tuple[list[Tokens], list[list[Tokens]]]:
    """Choose a hypothesis and that many references for each image."""
    chosen = images[:num_images]
    following = [*images[1:num_images], images[0]]
    references = [
        [*image[1:], *other][:num_references]
        for image, other in zip(chosen, following, strict=True)
    ]
    return [image[0] for image in chosen], references


def score_by_raycap(hypotheses: list[Tokens], references: list[list[Tokens]]) -> Scores:
    """Return BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D."""
    found = score_images(hypotheses, references, DocumentFrequencies.of(references))
    bleu = corpus_bleu(found.bleu_counts.sum(axis=0))
    return [*bleu.tolist(), mean(found.rouge_l), mean(found.cider_d)]


def score_by_pycocoevalcap(
    hypotheses: dict[int, list[str]], references: dict[int, list[str]]
) -> Scores:
    """Return the same scores from pycocoevalcap, which takes tokens joined by spaces."""
    bleu, _ = Bleu(4).compute_score(references, hypotheses, verbose=0)
    rouge_l, _ = Rouge().compute_score(references, hypotheses)
    cider_d, _ = Cider().compute_score(references, hypotheses)
    return [*bleu, float(rouge_l), float(cider_d)]


def timed(score: Callable[[], Scores]) -> tuple[Scores, float]:
    """Return the scores and the seconds that scoring took."""
    started = time.perf_counter()
    scores = score()
    return scores, time.perf_counter() - started


def compare(
    hypotheses: list[Tokens], references: list[list[Tokens]], num_rounds: int
) -> list[dict[str, float]]:
    """Score with both in every round; return the times and ratios."""
    captions = {index: [" ".join(tokens)] for index, tokens in enumerate(hypotheses)}
    others = {
        index: [" ".join(tokens) for tokens in image] for index, image in enumerate(references)
    }
    rounds = []
    print("round  raycap s  pycocoevalcap s  ratio  largest difference")
    for number in range(num_rounds):
        ours, ours_s = timed(lambda: score_by_raycap(hypotheses, references))
        theirs, theirs_s = timed(lambda: score_by_pycocoevalcap(captions, others))
        apart = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
        if apart > 1e-9:
            raise SystemExit(f"the scores differ: {ours} and {theirs}")
        ratio = theirs_s / ours_s
        rounds.append({"raycap_s": ours_s, "pycocoevalcap_s": theirs_s, "ratio": ratio})
        print(
            f"{number:>5}  {ours_s:>8.3f}  {theirs_s:>15.3f}  {ratio:>5.2f}  {apart:>18.1e}",
            flush=True,
        )
    return rounds


def tokenizer_speeds(captions: list[str]) -> dict[str, float]:
    """Return the captions/s of both tokenizers, without the start-up of Stanford's program."""
    started = time.perf_counter()
    ours = [tokenize(caption) for caption in captions]
    speeds = {TOKENIZER: len(captions) / (time.perf_counter() - started)}
    with PtbTokenizer() as ptb:
        ptb.tokenize(captions[:1000])
        started = time.perf_counter()
        theirs = ptb.tokenize(captions)
        speeds[PTB] = len(captions) / (time.perf_counter() - started)
    num_different = sum(one != other for one, other in zip(ours, theirs, strict=True))
    for name, speed in speeds.items():
        print(f"{name:<18} {speed:>9,.0f} captions/s")
    print(f"captions split differently: {num_different} of {len(captions):,}")
    return speeds


def main() -> None:
    """Run the rounds and the tokenizers, and print the tables and their JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    images = read_captions()
    tokens = [[tokenize(caption) for caption in captions] for captions in images]
    hypotheses, references = build_corpus(tokens, arguments.images, arguments.references)
    rounds = compare(hypotheses, references, arguments.rounds)
    ratio = statistics.median(found["ratio"] for found in rounds)
    print(f"median ratio {ratio:.2f} (target: {BAR})")
    speeds = tokenizer_speeds([caption for captions in images for caption in captions])
    print(json.dumps({"rounds": rounds, "median_ratio": ratio, "captions_per_s": speeds}))


if __name__ == "__main__":
    main()
