"""llamboctl's commands, a module for what belongs together.  llamboctl imports each when it is
asked for, as some need much that the others do not."""
