"""Stage one: decode every clip once, render its sound, run frozen backbones, commit shards.

    plan.py       which clips lack which features, cut into chunks
    worker.py     what a decode process does with one clip
    pool.py       the decode processes, which give their pixels back through shared memory
    slots.py      shared memory that outlives no run
    drawn.py      audio images that are cached already, and their mirrored views
    encode.py     batches of pixels through a loaded backbone
    chunk.py      one chunk of clips through the networks, committed as shards
    extractor.py  one device's networks and decode processes, chunk after chunk
    engine.py     who works on the chunks: this process, a process per device
    remote.py     what a cluster's worker does
    run.py        from plan to summary

This file imports nothing: decode processes import the package and need no torch.
"""
