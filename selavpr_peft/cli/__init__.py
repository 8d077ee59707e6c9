"""The command line: one thin file per command, parsing and printing only. Nothing heavy is imported until it runs."""
