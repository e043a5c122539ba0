"""Structured answers: grammars, schemas and regular expressions, as llguidance takes them.

A user's text comes in as a `Constraint` and goes out as llguidance's own grammar, or is refused
with the line, or the keyword and the path, that is wrong.  Nothing here knows a vocabulary or
llama.cpp, and nothing here may be called where others wait: llguidance recurses, so that a
hostile text ends the *process*.  A child process (`sandbox`) works on each text first.
"""
