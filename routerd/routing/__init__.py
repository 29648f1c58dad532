"""Deciding: the ground that a decision rests on, and the table of decisions that clients read from shared memory.

Daemon and clients decide with this same code, so that both always give the same answer.
"""
