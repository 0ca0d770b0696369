"""Keys: who somebody is, whom we let in, and which key stands at a node.

    identity   a key, its fingerprint, a pair of keys, and what one link needs of them
    trusted    the files for people, as text: `trusted` says who may do what, `known_nodes` which key is where
    directory  the key directory on the disk: made, read, checked, changed
    zap        libzmq's question "may this key come in?" and our answer, as frames
"""

from zmqkit.security.directory import Keys
from zmqkit.security.identity import LinkKeys, Pair, fingerprint

__all__ = ["Keys", "LinkKeys", "Pair", "fingerprint"]
