"""Stage one: decode every clip once, render its sound, run frozen backbones, commit shards.

    run.py            from plan to summary
    plan.py           clips that lack a feature, cut into chunks
    engine.py         who processes the chunks: this process, or a process per device
    dask_worker.py    the worker of a cluster
    extractor.py      one device's networks and decode processes, chunk after chunk
    chunk.py          one chunk of clips through the networks, committed as shards
    pool.py           the decode processes, which return arrays through shared memory
    worker.py         what a decode process does with one clip
    shared_memory.py  shared memory that outlives no run
    cached_images.py  cached audio images and their mirrored views
    encode.py         batches through a loaded backbone

This file imports nothing: decode processes import the package and need no torch.
"""
