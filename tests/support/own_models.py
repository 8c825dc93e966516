"""Modules with captioners of a user's own, written as source, because raycap imports them."""

import textwrap
from pathlib import Path

COLOURS = '''
    """Names the dominant colour channel of an image."""

    import numpy as np

    NAMES = ("red", "green", "blue")


    class Colours:
        target = (32, 24)

        def __init__(self, article="a"):
            self.article = article

        def caption(self, pixels):
            channels = pixels.reshape(len(pixels), -1, 3).mean(axis=1).argmax(axis=1)
            return [f"{self.article} mostly {NAMES[channel]} image" for channel in channels]
'''

SCORED = '''
    """Gives scores, answers prompts, and fails on some images."""

    import numpy as np
    from raycap import Caption, Target


    class Scored:
        target = Target(width_px=16, height_px=16, resample="nearest")
        fingerprint = "scored 1"

        def __init__(self, bad=None, logprob=-1.0):
            self.bad, self.logprob = bad, logprob

        def caption(self, pixels):
            means = [int(image.mean()) for image in pixels]
            if self.bad in means:
                raise ValueError(f"no image of {self.bad}")
            return [Caption(text=f"image of {one}", logprob=self.logprob) for one in means]


    class Answering(Scored):
        fingerprint = "answering 1"

        def answer(self, pixels, questions):
            return [
                [f"{question.text} {int(image.mean())}" for question in asked]
                for image, asked in zip(pixels, questions, strict=True)
            ]
'''


def write_module(folder: Path, name: str, source: str) -> Path:
    """Write a module, and return its file."""
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / f"{name}.py"
    file.write_text(textwrap.dedent(source))
    return file
