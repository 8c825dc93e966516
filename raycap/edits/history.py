"""All edits of an output in memory, by caption, and the state of each caption."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from raycap.edits.records import Edit, EditAction, EditState, Review, undone_by

Key = tuple[str | None, str]
"""The prompt and the image of a caption."""


class History:
    """The edits of an output; about 1 kB of memory each."""

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        self._by_key: defaultdict[Key, list[Edit]] = defaultdict(list)
        self._by_batch: defaultdict[str, list[Edit]] = defaultdict(list)
        self._by_id: dict[str, Edit] = {}
        self._undone: set[str] = set()
        self.add(edits)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Edit]:
        """Yield all edits in the order of their ids."""
        return iter(self._by_id[name] for name in sorted(self._by_id))

    def add(self, edits: Iterable[Edit]) -> None:
        """Add edits, in any order."""
        has_undone = False
        for edit in edits:
            if edit.edit_id in self._by_id:
                continue
            self._by_id[edit.edit_id] = edit
            if edit.batch is not None:
                self._by_batch[edit.batch].append(edit)
            if edit.action == EditAction.UNDO:
                has_undone = True
            else:
                self._by_key[edit.key].append(edit)
        if has_undone:
            self._undone = undone_by(self)

    @property
    def keys(self) -> Iterable[Key]:
        """The captions that have edits."""
        return self._by_key.keys()

    def find(self, name: str) -> list[Edit]:
        """Return the edit with an id, or the edits of a batch; empty if there are none."""
        return [self._by_id[name]] if name in self._by_id else list(self._by_batch.get(name, ()))

    def of(self, image_id: str, prompt: str | None = None) -> list[Edit]:
        """Return the edits of a caption in order, those that are undone included."""
        return sorted(self._by_key.get((prompt, image_id), ()), key=lambda edit: edit.edit_id)

    def is_undone(self, edit: Edit) -> bool:
        """Return whether an edit is undone, by itself or with its batch."""
        return edit.edit_id in self._undone or edit.batch in self._undone

    def state(self, image_id: str, prompt: str | None = None) -> EditState:
        """Return the state of a caption; without a `last` if it has no edit that counts."""
        state = EditState(image_id=image_id, prompt=prompt)
        for edit in self.of(image_id, prompt):
            if not self.is_undone(edit):
                state = state.after(edit)
        return state

    def states(self) -> Iterator[EditState]:
        """Yield the state of each caption that has an edit that counts, in no order."""
        for prompt, image_id in self._by_key:
            state = self.state(image_id, prompt)
            if state.last:
                yield state

    def counts(self) -> Counter[Review]:
        """Count the captions by what reviewers have made of them, whether stale or not."""
        return Counter(state.review for state in self.states() if state.review is not None)
