"""The catalogue: one failure per file, on stage twice, and what a library has to do about it."""
