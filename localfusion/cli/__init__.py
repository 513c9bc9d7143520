"""The command line: options in, events shown, answers out. Decides nothing about a deliberation."""
