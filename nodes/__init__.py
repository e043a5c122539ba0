"""Composition roots: the processes of a cluster, put together from `llambo9p`.
Imported by nobody; installed as `llambo9p_nodes`."""
