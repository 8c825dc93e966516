"""Bulk captioning: plan, stream through Ray Data, commit, verify."""
