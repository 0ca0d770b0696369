"""zmqkit: acknowledgements, durable queues and late-joiner snapshots on ZeroMQ, as a library."""
