"""wordmask inside other programs, one file for each; none is imported before it is used."""
