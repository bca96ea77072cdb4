"""How hf_xet uploads to the loopback Hub and downloads: into a folder and from it, by its own `local://` store.

It is not documented; the format of the shards is from the sources of hf_xet 1.8.
"""

import struct
import subprocess
import sys
import time
from pathlib import Path

from loopback_http import API, REVISION, route
from loopback_storage import Blob

FETCH = """
import sys, time, hf_xet
from huggingface_hub.utils._xet import get_xet_session
cas, xet, size, path = sys.argv[1:]
access = {"endpoint": cas, "token": "loopback", "token_expiry_unix_secs": int(time.time()) + 3600}
with get_xet_session().new_file_download_group(**access) as group:
    group.start_download_file(hf_xet.XetFileInfo(xet, int(size)), path)
"""


class Xet:
    """Answers of `loopback_hub._Handler`."""

    @route("GET", rf"{API}/xet-(?P<access>read|write)-token/{REVISION}")
    def xet_token(self, kind: str, repo_id: str, access: str, revision: str) -> None:
        self.find(kind, repo_id, revision, to_write=access == "write")
        answer = {"casUrl": address(self.hub.storage.cas), "accessToken": "loopback", "exp": int(time.time()) + 3600}
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        self.send_json(answer, headers=dict(zip(names, map(str, answer.values()), strict=True)))

    def xet_headers(self, kind: str, repo_id: str, sha: str, blob: Blob) -> dict[str, str]:
        """What tells the client that it may download this one through Xet."""
        if blob.xet is None:
            return {}
        where = f"{self.hub.url}/api/{kind}/{repo_id}/xet-read-token/{sha}"
        return {"X-Xet-Hash": blob.xet, "Link": f'<{where}>; rel="xet-auth"'}


def address(cas: Path) -> str:
    return f"local://{cas}"


def fetch(cas: Path, blob: Blob) -> None:
    """Put the content where it is stored. No other process may be at it meanwhile: the store is locked."""
    command = [sys.executable, "-c", FETCH, address(cas), blob.xet, str(blob.size), str(blob.stored)]
    subprocess.run(command, check=True, timeout=60)


def hashes(cas: Path) -> dict[str, str]:
    """The Xet hash of every file that was uploaded, by its sha256."""
    found = {}
    for shard in sorted((cas / "xet" / "xorbs" / "shards").glob("*.mdb")):
        content, at = shard.read_bytes(), 48
        while content[at : at + 32] != b"\xff" * 32:
            flags, segments = struct.unpack_from("<II", content, at + 32)
            end = at + 48 + 48 * segments * (2 if flags >> 31 else 1)
            if flags >> 30 & 1:
                found[_words(content[end : end + 32])] = _words(content[at : at + 32])
                end += 48
            at = end
    return found


def _words(hash32: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", hash32))
