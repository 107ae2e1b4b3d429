"""Extraction on a Dask cluster.

engine.py   hands chunks to a cluster's workers
local.py    a scheduler and workers on this machine
identity.py what workers must have in common with the client
"""
