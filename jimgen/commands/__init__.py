"""What `jimgen` does with runs, a family of commands a file. Nothing heavy is imported before it is needed."""
