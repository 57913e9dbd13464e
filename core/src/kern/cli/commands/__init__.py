"""The commands of core, one module each; its attribute ``command`` is the command."""
