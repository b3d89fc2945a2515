"""The built-in plugins. Their names stand in ``setup.cfg``, one entry-point line each; nothing is imported here."""
