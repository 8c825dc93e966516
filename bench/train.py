"""Training: images/s of `raycap train` compared with a plain PyTorch loop with a DataLoader.

Both train the same model on the same images with the same augmentation, batch size, optimizer and
schedule, one after the other, in several rounds. The table shows the ratio of each round and the
median. The plain loop is what people write without raycap: a Dataset of image files, torchvision's
transforms, transformers' own loss, and AdamW. Its rate is the best over the given numbers of loader
processes. In both, the first epoch warms up and the others count. Starting Ray and validation do
not count.

    python -m bench.train [--model demo|base] [--images 1024] [--batch 32] [--rounds 3]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from transformers import AutoTokenizer, BlipForConditionalGeneration

from bench.samples import write_blip_base
from raycap.config import PrepareConfig, TrainConfig
from raycap.config.loading import validate_config
from raycap.datasets.prepare import prepare
from raycap.demo.scenes import long_captions, write_scenes
from raycap.models.folders import read_preprocessing
from raycap.models.sources import DEMO_FOLDER
from raycap.training.learner import learning_rate
from raycap.training.run import train

NUM_EPOCHS = 3  # the first one warms up
SEED = 5
Row = tuple[Path, list[str]]


def write_images(folder: Path, count: int) -> list[Row]:
    """Render scenes; return the path and captions of each."""
    written = write_scenes(folder, count, SEED)
    return [(folder / name, long_captions(scene)) for name, scene in written]


def make_dataset(rows: list[Row], folder: Path) -> None:
    """Make a caption dataset of them: four images for validation, the others for training."""
    table = folder / "captions.jsonl"
    lines = [
        {
            "uri": str(path),
            "captions": captions,
            "split": "validation" if number < 4 else "train",
        }
        for number, (path, captions) in enumerate(rows)
    ]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare(table, folder / "dataset", config=PrepareConfig())


class Photos(Dataset[tuple[torch.Tensor, str]]):
    """The same images as files, with the augmentation of raycap's defaults."""

    def __init__(self, rows: list[Row], side_px: int) -> None:
        self._rows = rows
        scale = side_px / 224
        self._changes = v2.Compose(
            [
                v2.RandomResizedCrop((side_px, side_px), (0.8, 1.0), interpolation=3),
                v2.ColorJitter(0.2, 0.2, 0.2, 0.02),
                v2.RandomApply([v2.GaussianBlur(5, (0.1 * scale, 2 * scale))], 0.2),
                v2.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path, captions = self._rows[index]
        with Image.open(path) as image:
            pixels = self._changes(image.convert("RGB"))
        return pixels, captions[int(torch.randint(len(captions), ()))]


def plain_rate(model: Path, rows: list[Row], config: TrainConfig, *, loader_workers: int) -> float:
    """Train with a plain loop; return the images/s of all epochs but the first."""
    torch.manual_seed(0)
    preprocessing = read_preprocessing(model)
    blip: Any = BlipForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    text = blip.config.text_config
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def collate(items: list[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, Any]:
        tokens = tokenizer([text for _, text in items], padding=True, return_tensors="pt")
        return torch.stack([pixels for pixels, _ in items]), tokens

    loader: Any = DataLoader(
        Photos(rows, preprocessing.target.width_px),
        batch_size=config.train.batch_size,
        shuffle=True,
        num_workers=loader_workers,
        collate_fn=collate,
        persistent_workers=loader_workers > 0,
        multiprocessing_context="fork" if loader_workers else None,
    )
    optimizer = torch.optim.AdamW(blip.parameters(), weight_decay=0.05)
    num_steps = len(loader) * NUM_EPOCHS
    step, started = 0, 0.0
    for epoch in range(NUM_EPOCHS):
        if epoch == 1:
            started = time.perf_counter()
        for pixels, tokens in loader:
            ids = tokens.input_ids.clone()
            ids[:, 0] = text.bos_token_id
            labels = ids.masked_fill(tokens.attention_mask == 0, -100)
            loss = blip(
                pixel_values=(pixels.float() * preprocessing.rescale - mean) / std,
                input_ids=ids,
                attention_mask=tokens.attention_mask,
                labels=labels,
            ).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(blip.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps, 1e-5, config.optimizer)
            optimizer.step()
            step += 1
    return len(rows) * (NUM_EPOCHS - 1) / (time.perf_counter() - started)


def raycap_rate(dataset: Path, output: Path, config: TrainConfig) -> float:
    """Train with raycap; return the images/s of the steps of all epochs but the first."""
    history = train(dataset, output, config=config).history[1:]
    return sum(r.num_images for r in history) / sum(r.train_s for r in history)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["demo", "base"], default="demo")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loader-workers", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as name:
        folder = Path(name)
        model = DEMO_FOLDER
        if given.model == "base":
            model = folder / "base"
            write_blip_base(model)
        rows = write_images(folder / "images", given.images + 4)
        make_dataset(rows, folder)
        config = validate_config(
            TrainConfig,
            {
                "init": str(model),
                "train": {"batch_size": given.batch, "num_epochs": NUM_EPOCHS},
                "augment": {"jpeg": 0},  # torchvision's version is deprecated
                "validation": {"num_images": 1, "patience": None},
            },
        )
        ratios = []
        print(f"{given.images} images, batch {given.batch}, {torch.get_num_threads()} threads")
        print("round  plain  (loader processes)  raycap  ratio")
        for number in range(given.rounds):
            plain = {
                count: plain_rate(model, rows[4:], config, loader_workers=count)
                for count in given.loader_workers
            }
            best = max(plain, key=lambda count: plain[count])
            ours = raycap_rate(folder / "dataset", folder / f"run-{number}", config)
            ratios.append(ours / plain[best])
            print(f"{number + 1:5}  {plain[best]:5.1f}  {best:18}  {ours:6.1f}  {ratios[-1]:.2f}")
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
