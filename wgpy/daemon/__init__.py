"""The command wgpy: one interface as a process."""
