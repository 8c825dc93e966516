"""Ray: starting it, streams, errors of workers, background work and its mailbox."""
