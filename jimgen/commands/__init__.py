"""The commands of `jimgen`, one family per file. They import heavy libraries only when needed."""
