"""Search of settings on Ray Tune; each trial is a training run like any other."""
