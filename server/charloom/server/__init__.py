"""The gRPC server: services, translation, errors, settings and assembly around the engine."""
