"""Results as a person reads them, on the terminal: a module a command family."""
