"""Runs recorded code again: in a WASM sandbox, with its arguments, seed and clock of then, and compares what comes.

Nothing goes out and no tool is executed: what the code calls is answered from the record. What is not on record, or
would not be the same twice, is not run, and told with the reason.
"""
