"""From valid rows to predictions: the input schema, the loaded model and the queue that batches requests."""
