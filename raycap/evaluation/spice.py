"""SPICE: captions compared by their objects, attributes and relations.

The program is pycocoevalcap's. Its parser, Stanford CoreNLP 3.6, is in no package and comes from a
folder given by the user. Two defects are avoided: its cache, which breaks on Java 16 and later, is
not used; and it writes results with Java's JavaScript engine, which Java 15 and later do not have.

Source: Anderson et al. 2016, arXiv:1607.08822.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from raycap import schema
from raycap.config import ExternalMetricsConfig
from raycap.evaluation.java import JavaError, JavaProcess, find_file, find_javas, why_missing
from raycap.evaluation.metric import Metric, Score
from raycap.parsing import parse_json

_JAR = "spice/spice-1.0.jar"
_LIBRARIES = "lib"
_MAIN = "edu.anu.spice.SpiceScorer"
_PARSER_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_ENGINE_JARS = "nashorn-core*.jar"
_LAST_WITH_ENGINE = 14
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def spice_missing(jars: Path | None) -> str | None:
    """Return why SPICE cannot run here, or None if it can.

    Args:
        jars: folder of the CoreNLP jars.
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
            f"external.spice_jars={jars}: newer Java has no JavaScript engine"
        )
    return reason


def spice_scores(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], jars: Path
) -> Float64[np.ndarray, " n"]:
    """Return SPICE's F score of each image; the corpus's score is the mean of these.

    It takes a minute to start, up to 8 GB of memory, and minutes per thousands of images.

    Args:
        hypotheses: tokens of each image's caption.
        references: tokens of each reference of each image, one or more per image.
        jars: folder of the CoreNLP jars.

    Raises:
        JavaError: it cannot run, failed, or answered for other images.
    """
    reason, java = spice_missing(jars), _find_java(jars)
    if reason is not None or java is None:
        raise JavaError(reason or f"SPICE: {jars} has changed")
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
        jars: folder of the CoreNLP jars, all of which are put on the class path.
        asked: file of what to score.
        answered: file for the scores.
    """
    program = find_file(_JAR)
    assert program is not None  # spice_missing has looked
    places = [str(program), str(program.parent / _LIBRARIES / "*"), str(jars.absolute() / "*")]
    options = ["-out", str(answered), "-silent"]
    return ["-Xmx8G", "-cp", os.pathsep.join(places), _MAIN, str(asked), *options]


def spice_input(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> str:
    """Return the program's input: JSON in ASCII."""
    items = [
        {"image_id": index, "test": " ".join(hypothesis), "refs": [" ".join(one) for one in others]}
        for index, (hypothesis, others) in enumerate(zip(hypotheses, references, strict=True))
    ]
    return json.dumps(items)


def read_scores(text: str, num_images: int) -> Float64[np.ndarray, " n"]:
    """Read each image's F score over all tuples from the program's answer, in input order.

    Raises:
        JavaError: the answer has another form, or is for other images.
    """
    try:
        found = {
            int(item["image_id"]): float(item["scores"]["All"]["f"]) for item in parse_json(text)
        }
        return np.array([found[index] for index in range(num_images)], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise JavaError(
            f"SPICE: its answer is not the scores of {num_images} images "
            f"({type(error).__name__}: {error})"
        ) from error


def _find_java(jars: Path) -> Path | None:
    """Find a Java with a JavaScript engine, of its own or among the jars."""
    given = any(jars.glob(_ENGINE_JARS))
    return next((java for java in find_javas() if given or _has_engine(java)), None)


def _has_engine(java: Path) -> bool:
    try:
        shown = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    version = _VERSION.search(shown.stderr)
    return version is not None and int(version[1]) <= _LAST_WITH_ENGINE


def _open(config: ExternalMetricsConfig, _: ExitStack) -> Score:
    jars = config.spice_jars
    if jars is None:
        raise JavaError(spice_missing(jars))
    return lambda batch: spice_scores(batch.captions, batch.references, jars)


SPICE = Metric(
    columns=(schema.SPICE,),
    open=_open,
    why_skipped=lambda config: spice_missing(config.spice_jars),
)
