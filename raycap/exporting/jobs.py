"""What an export is asked to do, as every exporter gets it."""

from collections.abc import Callable
from dataclasses import dataclass

from raycap.config import Existing, HubImages, Layout, Naming, SameStem, Shards
from raycap.exporting.selection import Selection
from raycap.results.captioning import ExportCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """What is asked of a dataset for the Hugging Face Hub."""

    images: HubImages = HubImages.EMBED
    prompt: str | None = None
    """The named prompt whose answers to export; None for all of the run."""
    license: str | None = None
    """For the card: the Hub's name of a license, such as `cc-by-4.0`."""
    push: str | None = None
    """Name of the repository to push to, `user/name`; None to push nothing."""
    public: bool = False
    """Whether that repository is public if it is created."""

    def prompts(self, rows: Selection) -> tuple[str, ...]:
        """Return the named prompts that are columns of the dataset; none in a run without them."""
        return rows.output.prompts if self.prompt is None else (self.prompt,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """One export."""

    rows: Selection
    destination: str
    existing: Existing
    same_stem: SameStem = SameStem.SUFFIX
    suffix: str | None = None
    naming: Naming | None = None
    layout: Layout | None = None
    """None: what is usual for the format, as with the suffix and the naming."""
    shards: Shards | None = None
    """Tars of a WebDataset; None for those that suit the source."""
    hub: HubOptions = HubOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A format of an export."""

    write: Callable[[ExportJob], ExportCounts]
    existing: frozenset[Existing] = frozenset({Existing.REFUSE, Existing.OVERWRITE})
    """What it can do with files that exist."""
    options: frozenset[str] = frozenset()
    """Names of the arguments that it takes and others do not."""
