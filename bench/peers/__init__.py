"""BLIP in other runtimes compared with raycap; run `python -m bench.peers`."""
