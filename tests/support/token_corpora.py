"""Random corpora of tokens, and random ways to part them."""

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

from tests.support.metric_references import Tokenized, Tokens

T = TypeVar("T")

# Few, so that captions have n-grams in common; several scripts; one that holds another.
WORDS = ["a", "dog", "dogs", "café", "犬", "\U0001f415", "n't", "a-dog", "1.5"]


def captions(min_size: int = 0, max_size: int = 9) -> st.SearchStrategy[Tokens]:
    """Draw the tokens of a caption."""
    return st.lists(st.sampled_from(WORDS), min_size=min_size, max_size=max_size)


@st.composite
def corpora(
    draw: st.DrawFn, *, min_images: int = 1, max_images: int = 6, min_tokens: int = 0
) -> Tokenized:
    """Draw captions of images with one to four references each, often the same twice."""
    texts = captions(min_tokens)
    images = draw(
        st.lists(
            st.tuples(texts, st.lists(texts, min_size=1, max_size=4)),
            min_size=min_images,
            max_size=max_images,
        )
    )
    again = draw(st.lists(st.sampled_from(images), max_size=2)) if images else []
    images = images + again
    return Tokenized([image[0] for image in images], [image[1] for image in images])


@st.composite
def parted(draw: st.DrawFn, items: st.SearchStrategy[list[T]]) -> tuple[list[T], list[list[int]]]:
    """Draw items, and the indices of those in each part; parts may be empty, in any order."""
    drawn = draw(items)
    part_of = draw(st.lists(st.integers(0, 3), min_size=len(drawn), max_size=len(drawn)))
    parts = [[index for index, at in enumerate(part_of) if at == part] for part in range(4)]
    return drawn, draw(st.permutations(parts))


@st.composite
def parted_corpora(draw: st.DrawFn) -> tuple[Tokenized, list[list[int]]]:
    """Draw a corpus, and the indices of the images of each part."""
    corpus = draw(corpora())
    pairs = list(zip(corpus.hypotheses, corpus.references, strict=True))
    return corpus, draw(parted(st.just(pairs)))[1]


def take(corpus: Tokenized, images: Sequence[int]) -> Tokenized:
    """Take some of a corpus's images."""
    return Tokenized(
        [corpus.hypotheses[index] for index in images],
        [corpus.references[index] for index in images],
    )
