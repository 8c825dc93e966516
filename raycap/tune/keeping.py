"""The best trial's model and settings, where they are looked for."""

import shutil

import yaml

from raycap.config import TuneConfig
from raycap.storage.base import Store
from raycap.train.epochs import BEST as TRAINED
from raycap.train.folders import list_keys, local_copy, replacing
from raycap.tune.record import BEST, MODEL, folder_of
from raycap.tune.search import Search, Trial
from raycap.tune.space import trial_config


def keep_best(
    store: Store, config: TuneConfig, best: Trial, metric: str, before: Search | None
) -> None:
    """Write `best.yaml`, and `model/` where another stands there than that of the best trial.

    Args:
        store: the search's output.
        config: its settings.
        best: its best trial.
        metric: what the trials are compared by.
        before: what was written at the end of the last invocation.
    """
    settings = trial_config(config.base(), best.params).model_dump(mode="json")
    head = f"# The best of the trials of a search: {best.name}, {metric} {best.value}\n"
    store.write(BEST, (head + yaml.safe_dump(settings, sort_keys=False)).encode())
    stands = before is not None and bool(before.end) and before.best == best.name
    if stands and before is not None and best in before.trials and list_keys(store, MODEL):
        return
    trained = f"{folder_of(best.name)}{TRAINED}"
    with local_copy(store, trained) as model, replacing(store, MODEL) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
