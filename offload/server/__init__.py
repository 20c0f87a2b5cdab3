"""The embedded server: the Open Inference Protocol on onnxruntime, with admission by deadline.

models, folder     ONNX files, loaded, checked, reloaded
admission, engine  the queue, who is let into it, the threads; account: what became of every request
servicer           the protocol's methods over an engine; any gRPC host can register it
security, metrics  certificates and tokens; Prometheus and health over HTTP
process            `tercel serve`: all of it in one process
triton             a Triton model repository from the same folder
"""
