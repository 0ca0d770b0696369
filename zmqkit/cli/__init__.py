"""The command line: what people type. Only this package imports click and rich."""
