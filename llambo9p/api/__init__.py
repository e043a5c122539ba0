"""Llambo from Python: llama.cpp in this process, and clusters of hosts in others.

Its names are those of `llambo9p`, from which they are imported.
"""
