"""Child processes that work on what users and authors of models wrote.

A grammar, a schema, a regular expression and a chat template are programs in all but name.  A
hostile one never ends, takes all memory, or ends the process that works on it.  So a child
process works on each of them first, with bounds on CPU time, wall time and memory and a large
stack.  The child is ended when it goes beyond one of them, and replaced.

    limits     what a child may use; pure
    messages   what they say to each other
    process    one child, seen from its parent
    child      the program that the child runs
    jobs       what it can do: check a constraint, render a template
    compiler   the parent's side of checking: by turns of the users, cached by text
    templates  the parent's side of rendering
"""
