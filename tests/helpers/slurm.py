"""Stand-ins for Slurm's commands, on a machine without it, and what it tells each process."""

from __future__ import annotations

from pathlib import Path

SRUN = '#!/bin/sh\nprintf "%s\\n" "$@"\n'  # shows what it is asked for
SCONTROL = '#!/bin/sh\necho 127.0.0.1\n'


def slurm(folder: Path, path: str) -> str:
    """Put ``srun`` and ``scontrol`` into ``folder``; the PATH by which they are found first."""
    commands = folder / 'bin'
    commands.mkdir()
    for name, script in (('srun', SRUN), ('scontrol', SCONTROL)):
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    return f'{commands}:{path}'


def slurm_variables(rank: int, port: int) -> dict[str, object]:
    """What srun tells each of two processes."""
    numbers = {'SLURM_PROCID': rank, 'SLURM_LOCALID': rank, 'SLURM_NTASKS': 2}
    return {**numbers, 'SLURM_NODELIST': 'this_machine', 'MASTER_PORT': port}
