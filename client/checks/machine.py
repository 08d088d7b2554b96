"""Check device, memory, disk, file system and the port of the node's own processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from client.checks.base import Check, Facts, Verdict, doubtful, failed, passed
from client.site.bounds import training_memory
from client.site.local_port import port_is_free, port_remedy
from client.site.lock import node_is_running
from shared.system.locks import locks_exclude

__all__ = ["CHECKS", "free_memory", "needed_memory"]

MOUNTS, MEMORY = Path("/proc/self/mountinfo"), Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
_GB = 1e9
_LIBRARIES = 0.6 * _GB
_PER_EVENT, _PER_ITEM = 80, 1000
SCANT_DISK, LITTLE_DISK = 0.1 * _GB, 1 * _GB
"""Below the first the node does not start; below the second it is doubtful."""
_REMOTE = {"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3"}


def needed_memory(facts: Facts, device: str) -> tuple[float, float]:
    """About how many bytes a training step takes, in memory and on the device.

    Libraries, 1 kB an item, 80 bytes an event; and on the device what a request is bounded by
    (`client.site.bounds.training_memory`).
    """
    site, items, rate = facts.site, len(facts.catalogue), facts.expected.sample_rate
    step = training_memory(
        facts.expected.model,
        facts.expected.candidates,
        expected=(site.policy.max_sample_rate if rate is None else rate) * site.population,
        items=items,
        device=device,
    )
    host = _LIBRARIES + _PER_EVENT * facts.histories.events + _PER_ITEM * items
    return (host + step, 0.0) if device == "cpu" else (host, step)


def free_memory() -> float | None:
    """Return the bytes that this process and its container may still take; None if unknown."""
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        free = next(float(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, ValueError, StopIteration):
        return None
    try:
        limit = float((GROUP / "memory.max").read_text(encoding="ascii"))
        return min(free, limit - float((GROUP / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no control group, or none with a limit ("max")
        return free


def _device(facts: Facts) -> Verdict:
    device = facts.site.torch_device()
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return passed(f"{device}, {threads} thread{'' if threads == 1 else 's'}")
    if (device.index or 0) >= torch.cuda.device_count():
        return failed(
            f"{device} is not there: this machine has {torch.cuda.device_count()} such devices",
            "Set `device` in site.toml to one of them, or to cpu.",
        )
    return passed(f"{device}, {torch.cuda.get_device_name(device)}")


def _memory(facts: Facts) -> Verdict:
    device = facts.site.torch_device()
    host, step = needed_memory(facts, device.type)
    pairs = [("of the machine", host, free_memory())]
    if device.type == "cuda":
        pairs.append(("of the GPU", step, float(torch.cuda.mem_get_info(device)[0])))
    memory = "; ".join(
        f"{name}: a training step needs about {_gb(need)}; {_gb(free)} are free"
        for name, need, free in pairs
    )
    if any(free is not None and free < need for _, need, free in pairs):
        return failed(
            memory,
            "Free some, take a larger machine, or ask the coordinator for a smaller "
            "`training.candidates`.",
        )
    return passed(memory)


def _disk(facts: Facts) -> Verdict:
    folder = facts.site.ledger_file.parent
    free = shutil.disk_usage(folder).free
    room = f"{_gb(free)} free in {folder}"
    if free < SCANT_DISK:
        return failed(room, "Free at least 1 GB: without room in the ledger nothing is trained.")
    if free < LITTLE_DISK:
        return doubtful(room, "Free at least 1 GB: the ledger keeps the last answers of each run.")
    return passed(room)


def _filesystem(facts: Facts) -> Verdict:
    folder = facts.site.ledger_file.parent.resolve()
    kind = _kind(folder)
    if kind in _REMOTE:
        return failed(
            f"{folder} is on {kind}, a network file system",
            "Put the ledger on a local disk: over a network, writes and locks may be lost.",
        )
    for place in (folder, facts.site.anchor_file.parent):
        if not locks_exclude(place):
            return failed(f"{place}: a lock does not hold there", "Put the file on a local disk.")
    return passed(f"{kind or 'local'}: what is written reaches the disk, and locks work")


def _port(facts: Facts) -> Verdict:
    port = facts.site.coordinator.local_port
    if port_is_free(port):
        return passed(f"127.0.0.1:{port} is free")
    if node_is_running(Path(facts.site.folder)):
        return passed(f"127.0.0.1:{port}, in use by this site's own node")
    return failed(f"127.0.0.1:{port} is in use by another program", port_remedy(port))


def _kind(folder: Path) -> str:
    """Return the type of the file system; "" if the system does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:
        mount, _, source = line.partition(" - ")
        kinds[Path(mount.split()[4].replace("\\040", " "))] = source.split()[0]
    return next((kinds[place] for place in (folder, *folder.parents) if place in kinds), "")


def _gb(size: float | None) -> str:
    return "an unknown amount" if size is None else f"{size / _GB:.1f} GB"


CHECKS = (
    Check("device", _device, "Set device = 'auto', or mend the driver."),
    Check(
        "memory",
        _memory,
        "",
        ("catalogue", "data", "schema", "device"),
        may_be_skipped=True,
    ),
    Check("disk", _disk, "Check where `ledger` is."),
    Check("filesystem", _filesystem, "Make the folder writable for the node's user."),
    Check("port", _port, "Check coordinator.local_port."),
)
