"""Peers shaped like the Python examples of the ZeroMQ Guide, flaws included, written anew for tests.

They are what users will point at a gateway, so they do what those examples do and not what the RFCs say: a queue that takes
any frame for "ready", a broker that dies of a polite goodbye. Only three things differ: every timer is an argument, time is
monotonic, and each can be stopped. None of them says more to a peer at the end than the example would: it vanishes.
"""
