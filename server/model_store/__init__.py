"""The model store: models resolved from MODEL_URI, downloaded, verified, and kept on this host as last good copies."""
