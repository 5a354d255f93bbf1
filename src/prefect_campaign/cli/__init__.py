"""The command line: `campaign ...`."""
