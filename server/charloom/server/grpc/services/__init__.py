"""The services of `charloom.v1`, a module each. A method translates a request, calls the engine, translates the answer.

Errors are not caught here: `ErrorInterceptor` makes statuses of them.
"""
