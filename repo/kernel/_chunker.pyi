from typing_extensions import Buffer

def cuts(
    table: Buffer,
    data: Buffer,
    minimum: int,
    switch: int,
    maximum: int,
    hard_limit: int,
    easy_limit: int,
    final: bool,
    /,
) -> list[int]: ...
