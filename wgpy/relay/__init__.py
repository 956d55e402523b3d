"""Moves bytes between sockets, in C: relay.c."""
