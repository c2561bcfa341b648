from typing_extensions import Buffer

from ingest.survey.reference import Found, Item

def look(
    root_fd: int, items: tuple[Item, ...], limit_ns: int, device: int, excluded: Buffer, /
) -> list[Found]: ...
