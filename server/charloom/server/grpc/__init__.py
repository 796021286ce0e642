"""The gRPC transport: a listener, services, translation, errors."""
