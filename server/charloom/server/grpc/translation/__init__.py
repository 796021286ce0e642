"""Between protobuf messages and the engine's values, both ways: a module for each .proto file, and one for times.

`to_...` makes a value of the engine, and refuses what no message should hold; `from_...` makes a message. What is
allowed beyond that is for the engine to say.
"""
