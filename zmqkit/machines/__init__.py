"""The machines: pure protocol. No socket, file, clock, thread or random source; time is an argument."""
