"""Stage one: decode every clip once, render its sound, run frozen backbones, commit shards.

    plan.py       which clips lack which features, cut into chunks
    worker.py     what a decode process does with one clip
    pool.py       the decode processes, and the shared memory their pixels come back through
    drawn.py      audio images that are cached already, and their mirrored views
    encode.py     batches of pixels through a loaded backbone
    chunk.py      one chunk of clips through the networks, committed as shards
    extractor.py  one device's networks and decode processes, chunk after chunk
    run.py        every device's share of the chunks, from plan to summary

This file imports nothing: decode processes import the package and need no torch.
"""
