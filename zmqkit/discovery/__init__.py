"""Discovery by mDNS: nodes announce themselves, and others hear of them. A record is a hint and proves nothing: the key does.

`found` and `table` are pure: what a record may say, and which are believed. The rest lives on zeroconf, in a thread of its own, and is
imported only by who announces or browses.
"""
