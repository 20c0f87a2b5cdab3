"""The wire: Open Inference Protocol v2 over gRPC, as any server of it speaks it, and what we say in `parameters`.

Requests (all optional; a server that does not know one of ours skips it):
    timeout          int64, microseconds from now in which the answer is wanted; Triton's name. On the stream, whose
                     gRPC deadline is that of the whole stream, it is the only deadline; unary calls have both, and the
                     sooner counts. Relative, so that no clock of one machine is compared with another's; the client
                     takes off what it expects the link to take.
    tercel_cancel    true, on the stream: forget the request of this id. It has no inputs and no answer.
    tercel_ack       true, on the stream: say when all of the request is here.
    tercel_codec     of one input tensor: "zlib" or "jpeg"; its raw contents are coded. Shape and datatype are those of
                     the tensor that comes out.

Responses:
    tercel_queue_ns, tercel_compute_ns    int64, from arrival to start of the run, and of the run.
    tercel_status                         on the stream, beside error_message: the status that a unary call ends with.
    tercel_received                       true, on the stream: the acknowledgement that was asked for; no answer yet.
                                          A quick answer may come without it.

Servers that know tercel_cancel, tercel_ack and tercel_codec name them in ServerMetadata's extensions; the client asks
first.

Statuses, the same on both ways:
    RESOURCE_EXHAUSTED    refused by admission: it would not be done in time, the queue is full, or it is too large
    DEADLINE_EXCEEDED     admitted, but the deadline passed in the queue
    UNAVAILABLE           the server drains
    NOT_FOUND             no such model or version
    INVALID_ARGUMENT      tensors that the model does not take, or that contradict themselves
    INTERNAL              the model failed
    UNAUTHENTICATED       wrong token or none
"""
