"""The gallery of a caption dataset: images of each split, with the captions that people wrote."""

from typing import Any

from raycap.config import ReportConfig
from raycap.datasets.dataset import CaptionDataset
from raycap.report.choice import DRAW, Draws, First
from raycap.report.dataset_pictures import dataset_pictures
from raycap.report.gallery import Answer, Example, Gallery, Order, Tab
from raycap.report.pictures import Picture
from raycap.schema import CAPTIONS_LIST, HEIGHT_PX, IMAGE_ID, SPLIT, URI, WIDTH_PX
from raycap.text import count_words

_COLUMNS = [IMAGE_ID, URI, SPLIT, CAPTIONS_LIST, WIDTH_PX, HEIGHT_PX]
_NUM_WORDS, _NUM_CAPTIONS, _NUM_PIXELS = "words", "captions", "pixels"
_ORDERS = (
    Order(key=_NUM_WORDS, label="Words a caption"),
    Order(key=_NUM_CAPTIONS, label="Captions"),
    Order(key=_NUM_PIXELS, label="Pixels"),
)


def dataset_gallery(dataset: CaptionDataset, config: ReportConfig) -> Gallery:
    """Choose images of each split at random; where a split has few, others have more.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the store refuses.
    """
    rows = _choose(dataset, config)
    pictures = dataset_pictures(dataset, [(row[IMAGE_ID], row[URI]) for row in rows], config)
    examples = [_example(row, picture) for row, picture in zip(rows, pictures, strict=True)]
    return Gallery(
        systems=(),
        tabs=tuple(Tab(key=split, label=split) for split in dataset.splits),
        orders=_ORDERS,
        others_label="Further captions",
        examples=tuple(examples),
    )


def _choose(dataset: CaptionDataset, config: ReportConfig) -> list[dict[str, Any]]:
    left, rows = config.num_examples, list[dict[str, Any]]()
    smallest_first = sorted(
        dataset.splits, key=lambda split: dataset.record.splits[split].num_images
    )
    for num_done, split in enumerate(smallest_first):
        share = left // (len(smallest_first) - num_done)
        draws, first = Draws(config.seed), First(share, DRAW, "ascending")
        for table in dataset.pages([split], _COLUMNS):
            first.add(draws.append_to(table))
        rows += first.rows().to_pylist()
        left = config.num_examples - len(rows)
    return rows


def _example(row: dict[str, Any], picture: Picture) -> Example:
    first, *others = row[CAPTIONS_LIST]
    words = [count_words(caption) for caption in row[CAPTIONS_LIST]]
    size = f"{row[WIDTH_PX]} \N{MULTIPLICATION SIGN} {row[HEIGHT_PX]}"
    answer = Answer(
        caption=first,
        marks=(("split", row[SPLIT]), ("words", str(words[0])), ("pixels", size)),
        values={
            _NUM_WORDS: sum(words) / len(words),
            _NUM_CAPTIONS: float(len(words)),
            _NUM_PIXELS: float(row[WIDTH_PX] * row[HEIGHT_PX]),
        },
    )
    return Example(
        image_id=row[IMAGE_ID],
        picture=picture,
        answers=(answer,),
        others=tuple(others),
        tabs=frozenset([row[SPLIT]]),
    )
