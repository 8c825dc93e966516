"""Caption metrics: pure functions and mergeable statistics; no Ray, no storage, no torch."""
