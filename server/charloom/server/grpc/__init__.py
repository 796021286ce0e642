"""The gRPC door: services, translation, errors."""
