"""Archives of data sets on the web: downloaded, checked and extracted, each once."""
