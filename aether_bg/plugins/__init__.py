"""The plugins that ship with aether_bg. They see hookspecs, model, errors and schedule, never the private packages."""
