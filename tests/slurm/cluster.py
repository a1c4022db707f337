"""A Slurm cluster in a folder: its daemons, nodes that can die, and commands that reach it. It
needs neither root nor systemd, and nothing of this machine's own Slurm."""

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES = ("node1", "node2")
URGENT = "urgent"  # the partition whose jobs requeue those of the default one, after a second

_MEMORY_MIB = 3000  # of each node: a worker with a CUDA build of torch takes a third of it
_PORTS = range(10_000, 30_000)  # below those that the kernel gives to outgoing connections
_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
_MORTAL = ("/usr/bin/setpriv", "--pdeathsig", "KILL")  # with this process
_MARK = "TEST_CLUSTER"
"""Environment of everything that runs in a cluster: its folder. `…_NODE` is a slurmd's node."""
_CONTROL_GROUPS = Path("/sys/fs/cgroup")

_SLURM_CONF = """\
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU={memory_mib}
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
ReturnToService=1
SlurmdTimeout=60
KillWait=2
MessageTimeout=4
UnkillableStepTimeout=60
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{memory}
{nodes}
PartitionName=main Default=YES Nodes=ALL GraceTime=1
PartitionName=urgent Nodes=ALL PriorityTier=2
"""
_OWN_LIMIT = """\
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill"""
_CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={_CONTROL_GROUPS}
ConstrainRAMSpace=yes
"""


def missing():
    """The daemons that this machine lacks for a cluster, in words."""
    daemons = ("munged", "slurmctld", "slurmd")
    absent = [name for name in daemons if shutil.which(name, path=_PATH) is None]
    return f"no {', '.join(absent)}" if absent else None


def has_control_groups():
    """Whether this user can limit the memory of jobs by them, of version 1."""
    return os.access(_CONTROL_GROUPS / "memory" / "cgroup.procs", os.W_OK)


class ClusterError(RuntimeError):
    """A daemon did not start, a command of Slurm failed, or a wait took too long."""


class Cluster:
    """Two nodes, with a default partition `main` and the partition `urgent`. The folder has a short
    path, as it has sockets. Control groups limit the memory of jobs, or Slurm itself does."""

    def __init__(self, folder, *, control_groups=False, cpus=2):
        self.folder = folder.resolve()
        self.control_groups = control_groups
        self._daemons = {}
        self._conf = self.folder / "slurm.conf"
        *ports, controller_port = _free_ports(3)
        nodes = [
            f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname=localhost Port={port} CPUs={cpus} "
            f"RealMemory={_MEMORY_MIB}"
            for name, port in zip(NODES, ports, strict=True)
        ]
        self._conf.write_text(_SLURM_CONF.format(
            user=pwd.getpwuid(os.geteuid()).pw_name, folder=self.folder, nodes="\n".join(nodes),
            controller_port=controller_port, memory_mib=_MEMORY_MIB // cpus,
            memory="TaskPlugin=task/cgroup" if control_groups else _OWN_LIMIT,
        ))  # fmt: skip
        groups = _CGROUP_CONF if control_groups else "CgroupPlugin=disabled\n"
        (self.folder / "cgroup.conf").write_text(groups)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()

    @property
    def environment(self):
        """This process's environment, in which Slurm's commands reach the cluster."""
        own = {"SLURM_CONF": str(self._conf), _MARK: str(self.folder), "PATH": _PATH}
        return os.environ | own

    def start(self):
        path = self.folder / "munge"
        path.with_suffix(".key").touch(0o600)
        path.with_suffix(".key").write_bytes(secrets.token_bytes(128))
        files = [f"--{name}-file={path}.{name}" for name in ("key", "pid", "log", "seed")]
        argv = ["munged", "--foreground", "--force", f"--socket={path}.socket", *files]
        self._launch("munged", argv)
        self.wait_for(path.with_suffix(".socket").exists, "munged listens")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: set(self.node_states().values()) == {"idle"}, "both nodes are idle")

    def stop(self):
        """Kill every process of the cluster: daemons, jobs, and what these started."""
        for node in NODES:
            self.kill_node(node)
        for name in tuple(self._daemons):
            self._kill_daemon(name)
        for node in NODES if self.control_groups else ():
            for path, _, _ in os.walk(_CONTROL_GROUPS / "memory" / f"slurm_{node}", topdown=False):
                with suppress(OSError):
                    Path(path).rmdir()

    def run(self, *command, check=True):
        """Run a command that finds this cluster; it may fail if `check` is false."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check and result.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: {result.stderr.strip()}")
        return result

    def submit(self, script, *options):
        """Submit lines of shell as a job, with options of sbatch; its id."""
        output = f"--output={self.folder}/job-%A-%a.out"
        argv = ("sbatch", "--parsable", output, *options, "--wrap", script)
        return self.run(*argv).stdout.strip()

    def queue(self):
        """State and node (or reason) of each queued job and array task, by id such as `7_2`."""
        lines = self.run("squeue", "-h", "-r", "-o", "%i|%T|%R").stdout.splitlines()
        rows = [line.split("|", 2) for line in lines]
        return {name: (state, place) for name, state, place in rows}

    def job(self, job_id):
        """What `scontrol show job` has about a job or an array task, by field."""
        text = self.run("scontrol", "-o", "show", "job", job_id).stdout.splitlines()[0]
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def node_states(self):
        """State of each node as sinfo writes it, such as `idle`, `mixed` or `down*`."""
        result = self.run("sinfo", "-h", "-N", "-o", "%N|%T", check=False)
        return dict(line.split("|", 1) for line in result.stdout.splitlines())

    def wait_for(self, condition, what, timeout_s=180.0):
        """Wait until a condition holds. The error has the ends of the daemons' output."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise ClusterError(f"not within {timeout_s:.0f} s: {what}\n{self.output(12)}")
            time.sleep(0.05)

    def output(self, lines):
        texts = {
            path.name: path.read_text(errors="replace").splitlines()[-lines:]
            for path in sorted(self.folder.glob("*.log"))
        }
        return "\n".join(f"== {name}\n" + "\n".join(text) for name, text in texts.items())

    def start_node(self, node):
        """Start a node's slurmd, which knows no jobs. Set down, it stays so until `resume`."""
        self._launch(node, ["slurmd", "-D", "-c", "-N", node], **{f"{_MARK}_NODE": node})

    def kill_node(self, node):
        """Let a node die: slurmd, slurmstepd and every process of its jobs are killed at once. The
        controller notices after a minute, 20 s after the node is back, or if it is set down."""
        bound = Path("/proc/net/unix").read_text().splitlines()
        spool = f" {self.folder / f'spool-{node}'}/"
        descriptors = {f"socket:[{line.split()[6]}]" for line in bound if spool in line}
        slurmd = self._daemons.pop(node, None)
        if slurmd is not None and slurmd.poll() is None:
            slurmd.send_signal(signal.SIGSTOP)  # so that it starts no other step
            descriptors |= {each for each in _descriptors(slurmd.pid) if each.startswith("pipe:")}
        while processes := self._processes(node, descriptors):
            _kill(processes)
        if slurmd is not None:
            slurmd.wait()

    def has_node(self, node):
        slurmd = self._daemons.get(node)
        return slurmd is not None and slurmd.poll() is None

    def resume(self, node):
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)

    def start_controller(self):
        self._launch("slurmctld", ["slurmctld", "-D"])

    def stop_controller(self, number):
        """End slurmctld; jobs go on. By SIGKILL it may forget the last 5 s, and jobs of them."""
        daemon = self._daemons["slurmctld"]
        daemon.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
        self._kill_daemon("slurmctld")

    def _launch(self, name, argv, **more):
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*_MORTAL, *argv], env=self.environment | more, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _kill_daemon(self, name):
        daemon = self._daemons.pop(name)
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(daemon.pid)
            _kill([process, *process.children(recursive=True)])
        daemon.wait()

    def _processes(self, node, descriptors):
        """Processes of a node, except zombies: those with its mark, and their descendants. A
        slurmstepd writes its title over its environment, but has one of some descriptors."""
        processes = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                environment = process.environ()
                if environment.get(_MARK) == str(self.folder):
                    names = environment.get(f"{_MARK}_NODE"), environment.get("SLURMD_NODENAME")
                    is_ours = node in names
                else:
                    is_step = process.name().startswith("slurmstepd")
                    is_ours = is_step and not descriptors.isdisjoint(_descriptors(process.pid))
                if is_ours:
                    processes.update([process, *process.children(recursive=True)])
        alive = set()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    alive.add(process)
        return alive


@contextmanager
def temporary_cluster(**options):
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), **options)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _kill(processes):
    """Stop processes first, so that none starts another or reports its child's death; then kill."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(number)


def _descriptors(pid):
    """Files, pipes and sockets that a process has open, as /proc names them."""
    links = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.add(str(file.readlink()))
    return links


def _free_ports(count):
    """Ports that nothing listens on, drawn so that test processes hardly choose the same."""
    ports = []
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            ports.append(port)
    return ports[:count]
