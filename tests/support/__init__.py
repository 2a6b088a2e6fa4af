"""What tests share: fakes, small models, stacks to start, and clients."""
