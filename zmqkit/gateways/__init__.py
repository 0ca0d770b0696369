"""Gateways: the protocols of the ZeroMQ Guide as pure translators. No socket, no clock: frames in, frames out."""
