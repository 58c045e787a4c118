"""What happened: typed events, written in the transaction of the change, read by subscribers.

Events get their position from the sequencer after they have become visible, so that positions are
in the order of visibility and a reader that continues after one misses nothing.
"""
