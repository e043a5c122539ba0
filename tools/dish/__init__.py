"""dish, the shell of the namespace: a small language over the files of a tree.

`syntax` reads it, `interpreter` does what it says with the commands of `builtins`, on the
files that `namespace` finds.  `console` is what a person sees of it.
"""
