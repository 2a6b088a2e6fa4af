"""Model folders on this host: resolved from MODEL_URI, downloaded, verified and kept as last good copies."""
