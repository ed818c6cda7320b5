"""The crash programme: real processes, really killed, and a history that the store cannot touch."""
