"""The server on many nodes: a Ray Serve application of replicas that each are a whole engine, and ways in.

replica    an engine in a Ray actor: models loaded once, admission by deadline, a folder watched, a health check
fleet      all replicas as one engine: routing by Ray, deadlines, retries after a replica's death, an account
servicer   the protocol over a fleet
cluster    Ray started on this machine, or joined, and put away again
process    `tercel serve --ray`: one gRPC port in front of a fleet, until SIGTERM
proxy      the same replicas behind Ray's own gRPC proxies, one a node, for Kubernetes

The port of `process` is ours and not Ray's proxy because that opens on every address, in clear, and lets anybody in.
"""
