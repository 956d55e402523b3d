"""wgpy: a userspace WireGuard for Linux."""
