"""The asyncio surface."""
