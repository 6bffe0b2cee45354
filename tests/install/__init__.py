"""Follows docs/install.md on a bare Debian tree under a real systemd: `make install-check`."""
