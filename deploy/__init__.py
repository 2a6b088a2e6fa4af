"""Everything around the server: verbs, backends, models, images, manifests and the scaling lab."""
