"""Image files: decoding, limits on their cost, isolation of files that kill or hang a process."""
