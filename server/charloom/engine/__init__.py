"""The engine: decoders, the loom that batches all live rows, sessions. Knows no gRPC, no protobuf and no torch.

(Only `torch_decoder` imports torch, and it is imported only when a TorchScript decoder is asked for.)
"""
