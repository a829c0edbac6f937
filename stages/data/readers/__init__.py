"""One module a data set: which files serve which image."""
