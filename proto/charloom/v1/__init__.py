"""The wire contract: generated from the `.proto` files in this folder by `scripts/generate-stubs`."""
