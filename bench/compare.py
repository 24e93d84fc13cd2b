#!/usr/bin/env python3
"""Runs gatepost and Postfix side by side and prints the ratios, Postfix in the same minutes as 1.

    bench/compare.py [--runs N] [--loads 4k-s10,4k-s50,...] [--binary target/release/gatepost]

Both listen on loopback and relay to Postfix's own smtp-sink; Postfix's own smtp-source sends. The two take
turns load by load, so that a machine that changes its speed changes it for both. Needs root (Postfix), the
Debian package postfix, and a release build of gatepost. Nothing outside a temporary directory is touched.

accept   messages a second until smtp-source has its last 250
relay    messages a second until smtp-sink has the last message
cpu      seconds (user + system) of all processes of the relay for 1000 messages
memory   peak of the summed RSS of all processes (and PSS, which counts shared pages once)
"""
import argparse, atexit, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
# name: (messages, sessions, octets, messages keep their connection)
LOADS = {
    "4k-s10": (4000, 10, 4096, True),
    "4k-s50": (4000, 50, 4096, True),
    "4k-s10-reconnect": (2000, 10, 4096, False),
    "256k-s10": (300, 10, 262144, True),
    "25M": (1, 1, 26214400, True),
}
LOAD_TIMEOUT_S = 120

MAIN_CF = """compatibility_level = 3.6
queue_directory = {d}/spool
data_directory = {d}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.example.com
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = none
smtp_tls_security_level = none
relayhost = [127.0.0.1]:{sink}
default_transport = smtp
maillog_file = {d}/mail.log
maillog_file_prefixes = {d}
message_size_limit = 62914560
import_environment = MAIL_CONFIG
"""
MASTER_CF = """127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
proxymap unix - - n - - proxymap
"""
GATEPOST_TOML = """state_dir = "{d}/state"
hostname = "bench.example.com"
[[listener]]
address = "127.0.0.1:{port}"
auth = "none"
max_message_size = "60MiB"
max_connections_per_client = 1000
[console]
address = "127.0.0.1:{console}"
[account.sink]
mailbox = "bench@example.com"
[account.sink.smtp]
host = "127.0.0.1"
port = {sink}
tls = "none"
auth = "none"
[log]
level = "warn"
format = "json"
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on 127.0.0.1:{port}")


class Sink:
    """smtp-sink -c; finished messages are counted from what it prints."""

    def __init__(self, port):
        self.path = f"/dev/shm/gatepost-bench-sink-{port}"
        self.file = open(self.path, "wb")
        self.process = subprocess.Popen(
            ["smtp-sink", "-u", "nobody", "-c", f"127.0.0.1:{port}", "1024"],
            stdout=self.file, stderr=subprocess.DEVNULL)
        atexit.register(self.stop)
        wait_port(port)

    def count(self):
        with open(self.path, "rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - 200))
            seen = re.findall(rb"mesg=(\d+)", f.read())
        return int(seen[-1]) if seen else 0

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None
            os.unlink(self.path)


def tree(root):
    parent = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                stat = open(f"/proc/{d}/stat").read()
                parent[int(d)] = int(stat[stat.rindex(")") + 2:].split()[1])
            except OSError:
                pass
    out, todo = [], [root]
    while todo:
        p = todo.pop()
        out.append(p)
        todo += [c for c, pp in parent.items() if pp == p]
    return out


class Group:
    """A cgroup around the relay, so that short-lived children are counted too."""

    def __init__(self, name, pid):
        self.v1 = os.path.isdir("/sys/fs/cgroup/cpuacct")
        self.dir = ("/sys/fs/cgroup/cpuacct/" if self.v1 else "/sys/fs/cgroup/") + f"gatepost-bench-{name}"
        os.makedirs(self.dir, exist_ok=True)
        for p in tree(pid):
            try:
                open(f"{self.dir}/cgroup.procs", "w").write(str(p))
            except OSError:
                pass

    def pids(self):
        return [int(x) for x in open(f"{self.dir}/cgroup.procs").read().split()]

    def cpu(self):
        if self.v1:
            return int(open(f"{self.dir}/cpuacct.usage").read()) / 1e9
        stat = dict(line.split() for line in open(f"{self.dir}/cpu.stat"))
        return int(stat["usage_usec"]) / 1e6

    def memory(self):
        """(summed RSS, summed PSS) in MiB."""
        rss = pss = 0
        for p in self.pids():
            try:
                rss += int(open(f"/proc/{p}/statm").read().split()[1]) * 4
                roll = open(f"/proc/{p}/smaps_rollup").read()
                pss += int(re.search(r"^Pss:\s+(\d+)", roll, re.M).group(1))
            except (OSError, AttributeError):
                pass
        return rss / 1024, pss / 1024


class Peak(threading.Thread):
    def __init__(self, group):
        super().__init__(daemon=True)
        self.group, self.on, self.rss, self.pss = group, True, 0, 0

    def run(self):
        while self.on:
            rss, pss = self.group.memory()
            self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)
            time.sleep(0.05)


class Postfix:
    name = "postfix"

    def __init__(self, sink):
        self.port, self.dir = free_port(), tempfile.mkdtemp(prefix="gatepost-bench-")
        os.chmod(self.dir, 0o755)
        for sub in ("etc", "spool", "data"):
            os.mkdir(f"{self.dir}/{sub}", 0o755)
        shutil.chown(f"{self.dir}/data", "postfix")
        open(f"{self.dir}/etc/main.cf", "w").write(MAIN_CF.format(d=self.dir, sink=sink))
        open(f"{self.dir}/etc/master.cf", "w").write(MASTER_CF.format(port=self.port))
        subprocess.run(["postfix", "-c", f"{self.dir}/etc", "start"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(self.stop)
        wait_port(self.port)
        self.pid = int(open(f"{self.dir}/spool/pid/master.pid").read())
        self.group = Group(self.name, self.pid)

    def stop(self):
        subprocess.run(["postfix", "-c", f"{self.dir}/etc", "stop"],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)


class Gatepost:
    name = "gatepost"

    def __init__(self, sink, binary):
        self.port, self.dir = free_port(), tempfile.mkdtemp(prefix="gatepost-bench-")
        config = f"{self.dir}/gatepost.toml"
        open(config, "w").write(GATEPOST_TOML.format(d=self.dir, port=self.port, console=free_port(), sink=sink))
        self.process = subprocess.Popen([binary, "run", "--config", config], stdout=subprocess.DEVNULL,
                                        stderr=open(f"{self.dir}/log", "wb"))
        atexit.register(self.stop)
        wait_port(self.port)
        self.pid = self.process.pid
        self.group = Group(self.name, self.pid)

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)
            self.process = None
            sys.stderr.write(open(f"{self.dir}/log").read()[-2000:])
            shutil.rmtree(self.dir, ignore_errors=True)


def one_load(relay, sink, load):
    messages, sessions, size, keep = load
    before, cpu = sink.count(), relay.group.cpu()
    rss_before = relay.group.memory()[0]
    peak = Peak(relay.group)
    peak.start()
    command = ["smtp-source", "-f", "sender@example.com", "-t", "rcpt@example.net", "-M", "client.example.com",
               "-m", str(messages), "-s", str(sessions), "-l", str(size)]
    if keep:
        command.append("-d")
    start = time.monotonic()
    source = subprocess.Popen(command + [f"127.0.0.1:{relay.port}"], stderr=subprocess.PIPE)
    accept = relayed = None
    while time.monotonic() - start < LOAD_TIMEOUT_S and (accept is None or relayed is None):
        if accept is None and source.poll() is not None:
            accept = time.monotonic() - start
            if source.returncode:
                raise SystemExit(f"smtp-source: {source.stderr.read().decode()}")
        if relayed is None and sink.count() - before >= messages:
            relayed = time.monotonic() - start
        time.sleep(0.001)
    if relayed is None:
        raise SystemExit(f"{relay.name}: {sink.count() - before} of {messages} arrived in {LOAD_TIMEOUT_S} s")
    time.sleep(1.0)  # what is settled after the sink has the message belongs to the message's cost
    peak.on = False
    peak.join()
    return {"accept": messages / accept, "relay": messages / relayed,
            "cpu": (relay.group.cpu() - cpu) * 1000 / messages,
            "rss": peak.rss, "pss": peak.pss, "growth": peak.rss - rss_before}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--loads", default=",".join(LOADS))
    p.add_argument("--binary", default=os.path.join(HERE, "../target/release/gatepost"))
    a = p.parse_args()
    sink_port = free_port()
    sink = Sink(sink_port)
    relays = [Gatepost(sink_port, a.binary), Postfix(sink_port)]
    time.sleep(2)
    for r in relays:
        rss, pss = r.group.memory()
        print(f"idle: {r.name:9} RSS {rss:6.1f} MiB  PSS {pss:6.1f} MiB", flush=True)
    print("\n| load | relay | accept/s | relay/s | CPU s/1000 | peak RSS MiB | peak PSS MiB | growth MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in a.loads.split(","):
        runs = {r.name: [] for r in relays}
        for _ in range(a.runs):
            for r in relays:
                runs[r.name].append(one_load(r, sink, LOADS[name]))
        median = {n: {k: statistics.median(x[k] for x in v) for k in v[0]} for n, v in runs.items()}
        for n, m in median.items():
            print(f"| {name} | {n} | {m['accept']:.1f} | {m['relay']:.1f} | {m['cpu']:.3f} | {m['rss']:.1f} "
                  f"| {m['pss']:.1f} | {m['growth']:.1f} |", flush=True)
        ours, theirs = median["gatepost"], median["postfix"]
        ratio = {k: ours[k] / theirs[k] if theirs[k] else float("nan") for k in ("accept", "relay", "cpu", "rss", "pss")}
        print(f"| {name} | **ratio** | **{ratio['accept']:.2f}** | **{ratio['relay']:.2f}** | **{ratio['cpu']:.3f}** "
              f"| **{ratio['rss']:.3f}** | **{ratio['pss']:.3f}** | |", flush=True)


if __name__ == "__main__":
    main()
