"""A table of small models, one for each form in which people log models, with requests and their expected answers."""
