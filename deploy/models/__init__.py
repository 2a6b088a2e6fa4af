"""Commands and steps that prepare a model before replicas serve it: train, compile, register, provide and promote."""
