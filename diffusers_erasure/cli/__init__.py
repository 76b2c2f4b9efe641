"""The command line: one file per command, found by looking, imported only when it runs."""
