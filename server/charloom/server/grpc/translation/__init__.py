"""Between protobuf messages and the engine's values, both ways: a module for each .proto file, and one for times.

`to_...` makes a value of the engine, and refuses malformed fields; `from_...` makes a message. The engine checks
everything else.
"""
