"""A packing: the chunks of a small job, each once, in frames that are sealed and appended at once.

The plain way to store: one thread, no workers, and nobody is asked what the repository holds.
"""

from __future__ import annotations

from repo.index.scratch import Scratch
from repo.repository import Repository
from repo.sealer import Chunk, Sealer, frame_bytes_max, weight
from repo.types import ChunkId
from repo.writer import Writer


class Packing:
    """Takes chunks and nodes. `flush` before a checkpoint that is to cover all of them."""

    def __init__(
        self, repository: Repository, writer: Writer, stored: Scratch, *, level: int | None
    ) -> None:
        """stored: takes the keys of what this job has stored."""
        self._keys = repository.keys
        self._frame_bytes = repository.header.frame_bytes
        self._writer = writer
        self._stored = stored
        self._sealer = Sealer(level=level)
        self._frame: list[Chunk] = []
        self._weight = 0
        self.bytes_new = 0

    def add(self, data: bytes | memoryview) -> bytes:
        """Take a chunk of file content; returns its id. The memory must stay as it is."""
        chunk_id = self._keys.chunk_id(data)
        if chunk_id not in self._stored:
            self._stored.add(chunk_id)
            self.bytes_new += len(data)
            self._frame.append((chunk_id, data))
            self._weight += weight(len(data))
            if self._weight >= self._frame_bytes:
                self.flush()
        return chunk_id

    def put_meta(self, data: bytes) -> ChunkId:
        """Take a node, page or problem list; returns its id."""
        chunk_id = self._keys.chunk_id(data)
        self._writer.put_meta(chunk_id, data)
        return chunk_id

    def flush(self) -> None:
        """Seal and append what waits for its frame to be full. Raises RepositoryFailed."""
        if self._frame:
            (ticket,) = self._writer.tickets(1)
            key = self._keys.container(ticket.salt, "segment", ticket.segment_id)
            out = memoryview(bytearray(frame_bytes_max(self._weight, 0)))
            frame = self._sealer.seal(key, ticket.number, self._frame, out)
            self._writer.append(ticket.segment_id, frame, out)
            self._frame = []
            self._weight = 0
        if self._writer.commit_due():
            self._writer.commit()
