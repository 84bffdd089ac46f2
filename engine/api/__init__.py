"""REST: one package or module per client contract, in three parts: wire models, translation, routes."""
