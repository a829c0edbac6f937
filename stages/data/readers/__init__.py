"""One module for each data set, which finds the files of each image."""
