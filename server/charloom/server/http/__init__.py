"""The HTTP transport: OpenAI-style routes, answered by the calls of the engine that gRPC's services make too."""
