"""Forgetting on request: an expert out of a generator, classes out of an adapter, by group-sparse low-rank edits."""
