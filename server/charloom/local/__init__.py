r"""The SDK without a server to run: the same clients, with a server of their own inside this process.

    import charloom.local

    with charloom.local.open("shakespeare") as client:
        print(client.complete("ROMEO:\n", max_tokens=100, temperature=0.7).text)

Needs `pip install charloom[server]`. Client and server talk through a Unix socket in a folder that no other user can
enter, so everything is as with a server elsewhere: options, sessions, errors, the same text for the same seed.
"""

from charloom.local._clients import LocalAsyncClient, LocalClient, open, open_async

__all__ = ["LocalAsyncClient", "LocalClient", "open", "open_async"]
