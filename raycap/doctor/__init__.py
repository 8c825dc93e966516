"""Looking whether a machine, a cluster, stores and a model are fit for a run, before it begins."""
