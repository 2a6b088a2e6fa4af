"""The default model: the Covertype data set, the training on it, and the registration of the result."""
