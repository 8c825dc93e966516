"""Outputs of the other commands as names and values: their state, whether they are complete."""

from raycap.results.dataset import DatasetRecord
from raycap.results.display import Rows, Shown
from raycap.results.outputs import Completeness, WorkStatus
from raycap.results.shown.captioning import STATES

_WORK_STATES = {
    **STATES,
    "complete": "complete",
    "unknown": "not complete: running elsewhere (another machine or container), or stopped",
}


def work_rows(found: WorkStatus) -> Rows:
    """Return the state of an output that is not of `raycap caption` as names and values."""
    rows = [("kind", str(found.kind)), ("state", _WORK_STATES[found.state])]
    if found.num_total is None:
        rows.append((found.unit, f"{found.num_done:,} done"))
    else:
        rows.append((found.unit, f"{found.num_done:,} of {found.num_total:,} done"))
    if found.num_failed:
        rows.append(("failed", f"{found.num_failed:,}"))
    if found.best:
        rows.append(("best", found.best))
    return rows


def completeness_rows(found: Completeness) -> Rows:
    """Return whether an output that is not of `raycap caption` is complete."""
    if not found.is_sound:
        verdict = f"{len(found.problems):,} problems"
    elif not found.is_complete:
        verdict = "sound but not complete: run the same command again"
    else:
        verdict = "complete"
    return [*work_rows(found.status), ("verdict", verdict)]


def dataset_rows(record: DatasetRecord) -> Rows:
    """Return the contents of a dataset, and what was rejected, as names and values."""
    rows = [("images", f"{record.num_images:,}"), ("captions", f"{record.num_captions:,}")]
    rows += [("note", note) for note in record.notes]
    for name, split in record.splits.items():
        told = f"{split.num_images:,} images, {split.num_captions:,} captions"
        rows.append((f"  {name}", f"{told}, {split.mean_tokens:.1f} tokens each"))
    rejected = {
        "images rejected": record.rejected_images,
        "captions rejected": record.rejected_captions,
    }
    for name, reasons in rejected.items():
        if reasons:
            told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
            rows.append((name, told))
    if record.num_images_not_in_subset:
        rows.append(("not in the subset", f"{record.num_images_not_in_subset:,} images"))
    if record.duplicates.num_groups:
        duplicates = record.duplicates
        told = f"{duplicates.num_images:,} images in {duplicates.num_groups:,} groups"
        rows.append(("duplicates", f"{told}, {duplicates.num_moved:,} moved to one split"))
    if record.leakage.num_groups:
        rows.append(
            (
                "LEAKAGE",
                f"{record.leakage.num_images:,} images appear in more than one of the given splits",
            )
        )
    return [*rows, ("vocabulary", f"{record.vocabulary_size:,} tokens")]


def show_work(found: WorkStatus) -> Shown:
    """Show how far the work on an output is."""
    return Shown(title=f"Status of a {found.kind}", rows=work_rows(found))


def show_completeness(found: Completeness) -> Shown:
    """Show whether an output is complete."""
    problems = [("problem", problem) for problem in found.problems]
    rows = [*completeness_rows(found), *problems]
    return Shown(title=f"Verification of a {found.status.kind}", rows=rows)


def show_dataset(found: DatasetRecord) -> Shown:
    """Show what a dataset contains."""
    return Shown(title="Caption dataset", rows=dataset_rows(found))
