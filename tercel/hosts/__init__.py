"""Hosts run graphs of components: they own time, transport and queues, so that components own none of them."""
