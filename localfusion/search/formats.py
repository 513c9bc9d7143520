"""Which files are read, by their suffixes. The readers themselves are elsewhere: knowing the names costs no import."""

TEXT = frozenset({".md", ".markdown", ".txt", ".text", ".html", ".htm", ".xhtml", ".rst", ".csv", ".tsv"})
BINARY = frozenset({".pdf", ".docx", ".pptx", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".epub", ".eml"})
SUFFIXES = TEXT | BINARY
"""What a folder is searched for; a file that is named itself may have any suffix and is then plain text."""
