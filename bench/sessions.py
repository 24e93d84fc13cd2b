#!/usr/bin/env python3
"""Sessions of one gatepost: how many a second, and what idle ones cost.

    bench/sessions.py [--binary target/release/gatepost] [--idle 10000] [--seconds 10] [--workers 4]

Listeners on loopback (plain, STARTTLS, implicit TLS, auto), mail goes on to Postfix's smtp-sink. The clients are this
script's own processes: on a small machine they cost more than gatepost, so the rates are a lower bound, and `cpu` (user +
system time of gatepost for 1000 messages) is the figure to compare. Needs the Debian packages postfix and openssl, and a
release build. Nothing outside a temporary directory is touched.

rate     messages a second until the last 250, one message a connection and fifty
cpu      milliseconds of gatepost's CPU for a message
idle     RSS and PSS of gatepost without and with so many idle sessions that have said EHLO, KiB each
latency  of NOOP on another session meanwhile: median and 99th percentile
slow     a client that sends a byte every ten seconds in each phase: how many at once, and the rate beside them
spin     CPU of gatepost, in percent of one core, while 64 descriptors are all there are and more clients wait
"""
import argparse, base64, multiprocessing, os, re, resource, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MESSAGE = b"Subject: bench\r\n\r\n" + b"x" * 70 + b"\r\n"
LINE = b"x" * 76 + b"\r\n"
MESSAGE += LINE * 50
USER, PASSWORD = "bench", "bench-pass"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Client:
    def __init__(self, port, tls, source=None, cafile=None, login=False):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=source)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        context = None
        if tls != "none":
            context = ssl.create_default_context(cafile=cafile)
        if tls == "implicit":
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.expect(b"220")
        self.say(b"EHLO bench", b"250")
        if tls == "starttls":
            self.say(b"STARTTLS", b"220")
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
            self.say(b"EHLO bench", b"250")
        if login:
            secret = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())
            self.say(b"AUTH PLAIN " + secret, b"235")

    def expect(self, code):
        while True:
            while b"\r\n" not in self.buffer:
                read = self.sock.recv(65536)
                if not read:
                    raise EOFError
                self.buffer += read
            line, self.buffer = self.buffer.split(b"\r\n", 1)
            if line[3:4] != b"-":
                if not line.startswith(code):
                    raise RuntimeError(line)
                return line

    def say(self, line, code):
        self.sock.sendall(line + b"\r\n")
        return self.expect(code)

    def send(self):
        self.sock.sendall(b"MAIL FROM:<a@bench.example>\r\nRCPT TO:<b@bench.example>\r\nDATA\r\n")
        for code in (b"250", b"250", b"354"):
            self.expect(code)
        self.say(MESSAGE + b".", b"250")

    def quit(self):
        self.say(b"QUIT", b"221")
        self.sock.close()


def worker(port, tls, cafile, login, each, until, results):
    sent = 0
    while time.monotonic() < until:
        client = Client(port, tls, None, cafile, login)
        for _ in range(each):
            client.send()
            sent += 1
            if time.monotonic() >= until:
                break
        client.quit()
    results.put(sent)


class Gatepost:
    def __init__(self, binary, folder, limit=None):
        self.folder = folder
        names = ["none", "starttls", "implicit", "auto", "direct"]
        self.ports = {name: free_port() for name in names}
        sink = free_port()
        self.sink = subprocess.Popen(
            ["smtp-sink", "-u", "postfix", f"127.0.0.1:{sink}", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
        if not os.path.exists(cert):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
                            "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        self.cafile = cert
        printed = subprocess.run([binary, "hash-password"], input=PASSWORD + "\n", text=True, capture_output=True, check=True)
        hashed = re.search(r"\$argon2id\S+", printed.stdout).group(0)
        config = f'state_dir = "{folder}/state"\nhostname = "bench.example"\n[console]\naddress = "none"\n[log]\nlevel = "warn"\n'
        for name, port in self.ports.items():
            tls = "none" if name == "direct" else name
            config += f'[[listener]]\naddress = "127.0.0.1:{port}"\ntls = "{tls}"\nmax_connections = 20000\n' \
                      f'max_connections_per_client = 20000\n'
            if tls != "none":
                config += f'certificate_file = "{cert}"\nkey_file = "{key}"\n'
            if name == "direct":
                config += 'delivery = "direct"\n'
        config += f'[[client]]\nname = "{USER}"\npassword_hash = "{hashed}"\n' \
                  f'[account.a]\nmailbox = "a@bench.example"\n[account.a.smtp]\nhost = "127.0.0.1"\nport = {sink}\n' \
                  f'tls = "none"\nauth = "none"\n[account.a.limits]\nconnections = 10\n'
        path = os.path.join(folder, "gatepost.toml")
        with open(path, "w") as file:
            file.write(config)
        command = [binary, "run", "--config", path]
        if limit:
            command = ["prlimit", f"--nofile={limit}:{limit}"] + command
        self.log = open(os.path.join(folder, "log"), "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 30
        while True:
            try:
                Client(self.ports["none"], "none").quit()
                break
            except OSError:
                if time.monotonic() > end:
                    sys.exit("gatepost does not start: " + open(self.log.name).read())
                time.sleep(0.05)

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        text = open(f"/proc/{self.process.pid}/smaps_rollup").read()
        return [int(re.search(rf"^{key}:\s+(\d+)", text, re.M).group(1)) for key in ("Rss", "Pss")]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.sink.kill()
        self.sink.wait()


def rate(gatepost, tls, each, seconds, workers, login=False, port=None):
    results, cpu, start = multiprocessing.Queue(), gatepost.cpu(), time.monotonic()
    port = port or gatepost.ports[tls]
    arguments = (port, tls, gatepost.cafile, login, each, start + seconds, results)
    running = [multiprocessing.Process(target=worker, args=arguments) for _ in range(workers)]
    for one in running:
        one.start()
    sent = sum(results.get() for _ in running)
    for one in running:
        one.join()
    return sent / (time.monotonic() - start), (gatepost.cpu() - cpu) / max(sent, 1) * 1000


def show_rates(gatepost, options):
    for tls, login, port in (("none", False, None), ("none", True, None), ("starttls", True, None), ("implicit", True, None),
                             ("none", False, gatepost.ports["direct"])):
        for each in (1, 50):
            per_second, cpu = rate(gatepost, tls, each, options.seconds, options.workers, login, port)
            what = f"{tls}{' AUTH' if login else ''}{' direct' if port else ''}, {each} a connection"
            print(f"rate     {what:40} {per_second:8.0f} /s   cpu {cpu:.2f} ms", flush=True)


def show_idle(gatepost, tls, count):
    before, idle, start = gatepost.memory(), [], time.monotonic()
    for n in range(count):
        # 127.0.0.0/8 is all ours: ports of one address would run out.
        source = (f"127.0.{n // 5000 + 1}.1", 0)
        idle.append(Client(gatepost.ports[tls], tls, source, gatepost.cafile))
    took = time.monotonic() - start
    after, active, times = gatepost.memory(), Client(gatepost.ports["none"], "none"), []
    for _ in range(2000):
        since = time.perf_counter()
        active.say(b"NOOP", b"250")
        times.append((time.perf_counter() - since) * 1000)
    cpu, since = gatepost.cpu(), time.monotonic()
    time.sleep(5)
    share = (gatepost.cpu() - cpu) / (time.monotonic() - since) * 100
    each = [(b - a) / count for a, b in zip(before, after)]
    print(f"idle     {count} {tls}: RSS {before[0]} -> {after[0]} KiB ({each[0]:.2f} KiB each), PSS {each[1]:.2f} KiB each; "
          f"opened in {took:.1f} s; cpu while idle {share:.1f} %", flush=True)
    times.sort()
    print(f"latency  NOOP beside them: median {statistics.median(times):.2f} ms, p99 {times[int(len(times) * 0.99)]:.2f} ms")
    for one in idle:
        one.sock.close()


def show_slow(gatepost, options, count=500):
    alone, _ = rate(gatepost, "none", 50, options.seconds, options.workers)
    slow = []
    for n in range(count):
        for phase in ("greeting", "command", "hello", "data"):
            if phase == "hello":
                one = socket.create_connection(("127.0.0.1", gatepost.ports["implicit"]))
                one.sendall(b"\x16")
            else:
                one = socket.create_connection(("127.0.0.1", gatepost.ports["none"]))
                if phase != "greeting":
                    one.recv(1000)
                    one.sendall(b"EHLO slow\r\n" if phase == "data" else b"E")
                if phase == "data":
                    one.sendall(b"MAIL FROM:<a@bench.example>\r\nRCPT TO:<b@bench.example>\r\nDATA\r\nS")
            slow.append(one)
    beside, _ = rate(gatepost, "none", 50, options.seconds, options.workers)
    print(f"slow     {len(slow)} slow clients: {beside:.0f} /s beside them, {alone:.0f} /s without ({beside / alone:.0%})", flush=True)
    for one in slow:
        one.close()


def show_spin(binary, folder):
    gatepost = Gatepost(binary, folder, limit=64)
    crowd = [socket.create_connection(("127.0.0.1", gatepost.ports["none"])) for _ in range(200)]
    cpu, since = gatepost.cpu(), time.monotonic()
    time.sleep(10)
    share = (gatepost.cpu() - cpu) / (time.monotonic() - since) * 100
    greetings = []
    for one in crowd:
        one.settimeout(2)
        try:
            greetings.append(one.recv(4)[:3].decode())
        except OSError:
            greetings.append("none")
        one.close()
    counts = {code: greetings.count(code) for code in sorted(set(greetings))}
    Client(gatepost.ports["none"], "none").quit()
    print(f"spin     64 descriptors, 200 clients ({counts}): cpu {share:.1f} %; takes sessions again afterwards")
    gatepost.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(HERE, "../target/release/gatepost"))
    parser.add_argument("--idle", type=int, default=10000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    if not os.path.exists(options.binary):
        sys.exit(f"{options.binary} is missing: cargo build --release")
    if not shutil.which("smtp-sink"):
        os.environ["PATH"] += ":/usr/sbin"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        gatepost = Gatepost(options.binary, folder)
        try:
            show_idle(gatepost, "none", options.idle)
            show_rates(gatepost, options)
            show_slow(gatepost, options)
        finally:
            gatepost.stop()
        # Memory that TLS handshakes leave behind counts for the process: a fresh one.
        shutil.rmtree(os.path.join(folder, "state"))
        gatepost = Gatepost(options.binary, folder)
        try:
            show_idle(gatepost, "implicit", options.idle // 5)
        finally:
            gatepost.stop()
        shutil.rmtree(os.path.join(folder, "state"))
        show_spin(options.binary, folder)


if __name__ == "__main__":
    main()
