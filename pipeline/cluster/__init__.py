"""Extraction on a Dask cluster.

engine.py   hands chunks to the workers of a cluster
local.py    a scheduler and workers on this machine
identity.py what workers must have in common with the client
"""
