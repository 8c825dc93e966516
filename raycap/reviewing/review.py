"""`raycap review`: open an output, serve its page, and wait."""

import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raycap.config import ReviewConfig
from raycap.edits.writing import EditWriter
from raycap.errors import ConfigError
from raycap.progress import OnProgress, announce
from raycap.reviewing.index import open_index
from raycap.reviewing.pictures import open_pictures
from raycap.reviewing.server import Server, serve
from raycap.reviewing.session import Session, states_of
from raycap.reviewing.sources import open_sources
from raycap.schema import LOGPROB


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSummary:
    """Result of a review."""

    output: str
    """Address of the output."""
    reviewer: str
    num_saved: int
    """Edits that were saved, undone ones included."""
    num_approved: int
    """Captions that are approved now, and so on, by anybody."""
    num_rejected: int
    num_edited: int
    num_stale: int
    """Captions whose review is about another image, or another caption of the run."""
    num_unreviewed: int


def review(
    outputs: str | Path | Sequence[str | Path],
    *,
    config: ReviewConfig | None = None,
    on_ready: Callable[[Server], None] | None = None,
    on_progress: OnProgress = lambda _: None,
) -> ReviewSummary:
    """Serve a web page to look through captions and correct them, until it is interrupted.

    The page is served on this machine only. Edits are files beside the captions; no captions file
    is changed. In a script, call it below `if __name__ == "__main__":`, because images are decoded
    in further processes.

    Args:
        outputs: The output of `raycap caption` to review, a folder or `s3://bucket/prefix`. In a
            list, further outputs or files of captions are shown beside it, and the scores of an
            evaluation of it are used to filter and sort.
        config: All settings; None for the defaults.
        on_ready: Called with the server once the page can be opened: it has the address, and ends
            the review when its `stop` is called.
        on_progress: Called while the captions are read.

    Raises:
        ConfigError: an address or a setting is wrong, or the port is taken.
        DatasetError: an output is unfinished or damaged.
        StorageError: a store refuses.
    """
    config = config or ReviewConfig()
    addresses = [str(outputs)] if isinstance(outputs, str | Path) else [str(one) for one in outputs]
    if not addresses:
        raise ConfigError("no output to review; give the output of `raycap caption`")
    announce("opening the output")
    sources = open_sources(addresses, config.storage)
    writer = EditWriter(sources.output.store, config.reviewer)
    announce("reading captions")
    with open_pictures(sources.output, config) as pictures:
        pictures.start()
        with open_index(
            sources.output,
            states=partial(states_of, writer.history),
            beside=sources.beside,
            scores=sources.scores,
            memory_bytes=config.memory_bytes,
            on_progress=on_progress,
        ) as index:
            session = Session(output=sources.output, index=index, writer=writer)
            session.selections.prepare(LOGPROB)
            with serve(session, pictures, config) as server:
                _wait(server, config, on_ready)
            return _summary(session)


def _wait(server: Server, config: ReviewConfig, on_ready: Callable[[Server], None] | None) -> None:
    """Wait for Ctrl-C, the usual end of a review."""
    try:
        if on_ready is not None:
            on_ready(server)
        if config.open_browser:
            webbrowser.open(server.address)
        server.wait()
    except KeyboardInterrupt:
        pass


def _summary(session: Session) -> ReviewSummary:
    total: dict[str, int] = {}
    for prompt in session.index.prompts:
        for state, number in session.counts(prompt or "").items():
            total[state] = total.get(state, 0) + number
    return ReviewSummary(
        output=session.output.store.uri,
        reviewer=session.writer.by,
        num_saved=session.num_saved,
        num_approved=total.get("approved", 0),
        num_rejected=total.get("rejected", 0),
        num_edited=total.get("edited", 0),
        num_stale=total.get("stale", 0),
        num_unreviewed=total.get("unreviewed", 0),
    )
