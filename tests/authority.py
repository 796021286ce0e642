"""An authority of certificates for tests, and the files that it fills."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme


class Authority:
    """Signs certificates and writes them into a folder.

    Args:
        folder: where the files are
        name: of the authority's own file
    """

    def __init__(self, folder: Path, name: str = "ca.pem") -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.file = folder / name
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *hosts: str, days: tuple[float, float] = (-1, 30)) -> tuple[Path, Path]:
        """Files of a certificate and its key, NAME.crt and NAME.key; those that are there are replaced, each at once.

        Args:
            name: of the files
            hosts: names and addresses that the certificate is for
            days: from when to when it is valid, from now
        """
        now = datetime.now(timezone.utc)
        begin, end = (now + timedelta(days=day) for day in days)
        made = self._authority.issue_cert(*hosts, not_before=begin, not_after=end)
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        chain = b"".join(one.bytes() for one in made.cert_chain_pems)
        for path, content in zip(paths, (chain, made.private_key_pem.bytes()), strict=True):
            fresh = path.with_suffix(path.suffix + ".new")
            fresh.write_bytes(content)
            fresh.chmod(0o600)
            os.replace(fresh, path)
        return paths
