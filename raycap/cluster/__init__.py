"""Ray: starting it, what streams need of it, errors of its workers, mailboxes."""
