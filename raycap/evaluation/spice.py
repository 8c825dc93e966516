"""SPICE: captions compared by the objects, attributes and relations that they name.

The program is pycocoevalcap's; the parser that it needs, Stanford CoreNLP 3.6, is in no package and
comes from a folder that the user names. Two traps of it are stepped around: its cache breaks on
Java 16 and later, and is not used; and it writes its results with Java's own JavaScript engine,
which Java 15 and later no longer have.

Source: Anderson et al. 2016, arXiv:1607.08822.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from raycap.evaluation.java import JavaError, JavaProcess, find_file, find_javas, why_missing

_JAR = "spice/spice-1.0.jar"
_LIBRARIES = "lib"
_MAIN = "edu.anu.spice.SpiceScorer"
_PARSER_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_ENGINE_JARS = "nashorn-core*.jar"
_LAST_WITH_ENGINE = 14
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def spice_missing(jars: Path | None) -> str | None:
    """Say why SPICE cannot run here; None if it can.

    Args:
        jars: Folder of the CoreNLP jars.
    """
    if jars is None:
        return f"SPICE needs external.spice_jars, a folder with {' and '.join(_PARSER_JARS)}"
    missing = [name for name in _PARSER_JARS if not (jars / name).is_file()]
    if missing:
        return f"SPICE needs {missing[0]} in external.spice_jars={jars}"
    reason = why_missing("SPICE", _JAR)
    if reason is None and _find_java(jars) is None:
        return (
            f"SPICE needs Java 8 to {_LAST_WITH_ENGINE}, or nashorn-core 15 and its ASM jars in "
            f"external.spice_jars={jars}: newer Java has no JavaScript engine of its own"
        )
    return reason


def spice_scores(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], jars: Path
) -> Float64[np.ndarray, " n"]:
    """Score each image by SPICE's F; the corpus's score is the mean of these.

    It takes a minute to start, up to 8 GB of memory, and minutes for thousands of images.

    Args:
        hypotheses: Tokens of each image's caption.
        references: Tokens of each reference of each image, one or more an image.
        jars: Folder of the CoreNLP jars.

    Raises:
        JavaError: it cannot run, failed, or answers for other images.
    """
    reason, java = spice_missing(jars), _find_java(jars)
    if reason is not None or java is None:
        raise JavaError(reason or f"SPICE: {jars} has changed meanwhile")
    with tempfile.TemporaryDirectory(prefix="raycap-spice-") as folder:
        asked, answered = Path(folder) / "captions.json", Path(folder) / "scores.json"
        asked.write_text(spice_input(hypotheses, references))
        with JavaProcess("SPICE", java, spice_arguments(jars, asked, answered)) as process:
            process.finish()
        answer = answered.read_text("utf-8") if answered.is_file() else ""
    return read_scores(answer, len(hypotheses))


def spice_arguments(jars: Path, asked: Path, answered: Path) -> list[str]:
    """Build the program's command line, from the class path on.

    Args:
        jars: Folder of the CoreNLP jars, all of which go on the class path.
        asked: What to score.
        answered: Where the scores go.
    """
    program = find_file(_JAR)
    assert program is not None  # spice_missing has looked
    places = [str(program), str(program.parent / _LIBRARIES / "*"), str(jars.absolute() / "*")]
    options = ["-out", str(answered), "-silent"]
    return ["-Xmx8G", "-cp", os.pathsep.join(places), _MAIN, str(asked), *options]


def spice_input(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> str:
    """Write what is to be scored as the program reads it: JSON, in ASCII."""
    items = [
        {"image_id": index, "test": " ".join(hypothesis), "refs": [" ".join(one) for one in others]}
        for index, (hypothesis, others) in enumerate(zip(hypotheses, references, strict=True))
    ]
    return json.dumps(items)


def read_scores(text: str, num_images: int) -> Float64[np.ndarray, " n"]:
    """Read each image's F score of all tuples from the program's answer, in the order asked.

    Raises:
        JavaError: it is not of that form, or not of these images.
    """
    try:
        found = {
            int(item["image_id"]): float(item["scores"]["All"]["f"]) for item in json.loads(text)
        }
        return np.array([found[index] for index in range(num_images)], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise JavaError(
            f"SPICE: its answer is not the scores of {num_images} images "
            f"({type(error).__name__}: {error})"
        ) from error


def _find_java(jars: Path) -> Path | None:
    """Find a Java that has a JavaScript engine, or is given one by the jars."""
    given = any(jars.glob(_ENGINE_JARS))
    return next((java for java in find_javas() if given or _has_engine(java)), None)


def _has_engine(java: Path) -> bool:
    try:
        told = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    version = _VERSION.search(told.stderr)
    return version is not None and int(version[1]) <= _LAST_WITH_ENGINE
