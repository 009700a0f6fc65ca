"""Has the name of a module of the standard library: the function's own comes first."""
