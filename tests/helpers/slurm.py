"""Stand-ins for Slurm's commands, on a machine without it."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.processes import free_port

SRUN = """#!/usr/bin/env bash
# Stands in for srun: starts --ntasks processes, and ends with the first code that is not 0.
printf '%s\\n' "$@" > "$SRUN_RECORD"
while [ "${1#--}" != "$1" ]; do
    case $1 in --ntasks=*) export SLURM_NTASKS=${1#*=} ;; esac
    shift
done
export SLURM_NODELIST=this_machine
processes=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    processes+=($!)
done
code=0
for process in "${processes[@]}"; do wait "$process" || code=$?; done
exit "$code"
"""


def slurm(folder: Path, path: str) -> dict[str, str]:
    """Put the commands into ``folder``; the variables by which a shell finds them, then ``path``.

    ``srun`` writes its arguments into the file ``SRUN_RECORD``.
    """
    commands = folder / 'bin'
    commands.mkdir()
    for name, script in (('srun', SRUN), ('scontrol', '#!/bin/sh\necho 127.0.0.1\n')):
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    return {
        'PATH': f'{commands}:{path}',
        'SRUN_RECORD': str(folder / 'record'),
        'MASTER_PORT': str(free_port()),
    }
