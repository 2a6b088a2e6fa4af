"""Inference, from valid rows to predictions: the input schema, the loaded model, and the queue that batches rows."""
